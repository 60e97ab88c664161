"""Codecs without a loss to learn, with the interface of a variational autoencoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class ExactLatent:
    """The latent distribution of a deterministic codec: all its mass is on one point."""

    value: Tensor

    def mode(self) -> Tensor:
        return self.value


@dataclass(frozen=True)
class CodecEncoding:
    """What ``encode`` returns; ``latent_dist.mode()`` is (B, C p^2, h / p, w / p)."""

    latent_dist: ExactLatent


@dataclass(frozen=True)
class CodecDecoding:
    """What ``decode`` returns; ``sample`` is (B, C, h, w), about [-1, 1]; RGB comes first."""

    sample: Tensor


class PixelUnshuffleCodec(ModelMixin, ConfigMixin):
    """Moves each patch of pixels into channels, and back: nothing is lost either way.

    Args:
        patch_size: p, the side of a patch in pixels.
        scaling_factor: what latents are multiplied by before they are noised, as an autoencoder's
            own factor is; 2 brings photographs in [-1, 1] to about unit variance.
    """

    @register_to_config
    def __init__(self, patch_size: int = 2, scaling_factor: float = 2.0) -> None:
        super().__init__()
        # A model without a tensor has neither dtype nor device, and a pipeline asks for both.
        self.register_buffer("anchor", torch.zeros(1))

    def encode(self, image: Tensor) -> CodecEncoding:
        """(B, 3, H, W) with H and W multiples of the patch size -> (B, 3 p^2, H / p, W / p)."""
        return CodecEncoding(ExactLatent(F.pixel_unshuffle(image, self._patch_size)))

    def decode(self, latent: Tensor) -> CodecDecoding:
        """(B, C p^2, h, w) -> (B, C, p h, p w)."""
        return CodecDecoding(F.pixel_shuffle(latent, self._patch_size))

    @property
    def latent_channels(self) -> int:
        """Channels of the latents of an RGB picture: 3 p^2."""
        return 3 * self._patch_size**2

    @property
    def _patch_size(self) -> int:
        config: Any = self.config
        return int(config.patch_size)


class CellsCodec(ModelMixin, ConfigMixin):
    """Each cell's mean, darkest and brightest: a picture of nine channels, far smaller than it.

    A cell is a square of pixels. With one transmission t in it, haze I = J t + A (1 - t) keeps the
    order of its pixels (t > 0), so the mean, the minimum and the maximum of each channel obey the
    same equation exactly: the small picture is hazy or clear just as the photo is, and a shadow of
    one pixel is still in it. What a photo's pixels are beyond the nine numbers is lost; the small
    picture itself is not, it is only unshuffled.

    Args:
        cell_size: side of a cell in pixels.
        patch_size: p, the side of a patch of cells that is moved into the latents' channels.
        scaling_factor: as in ``PixelUnshuffleCodec``.
    """

    @register_to_config
    def __init__(
        self, cell_size: int = 6, patch_size: int = 2, scaling_factor: float = 2.0
    ) -> None:
        super().__init__()
        self.register_buffer("anchor", torch.zeros(1))

    def encode(self, image: Tensor) -> CodecEncoding:
        """(B, 3, H, W) with H and W multiples of c p -> (B, 9 p^2, H / (c p), W / (c p))."""
        return CodecEncoding(ExactLatent(self.unshuffle(cells_of(image, self._side("cell_size")))))

    def decode(self, latent: Tensor) -> CodecDecoding:
        """(B, 9 p^2, h, w) -> (B, 9, p h, p w): means, darkest, brightest, RGB each."""
        return CodecDecoding(F.pixel_shuffle(latent, self._side("patch_size")))

    def unshuffle(self, cells: Tensor) -> Tensor:
        """The latents of cells, (B, 9, H, W) -> (B, 9 p^2, H / p, W / p)."""
        return F.pixel_unshuffle(cells, self._side("patch_size"))

    @property
    def latent_channels(self) -> int:
        """Channels of the latents: 9 p^2."""
        return 9 * self._side("patch_size") ** 2

    def _side(self, name: str) -> int:
        config: Any = self.config
        return int(config[name])


def cells_of(image: Tensor, cell_size: int) -> Tensor:
    """The nine numbers of each cell of pictures.

    Args:
        image: (B, 3, H, W), H and W multiples of the cell size.
        cell_size: c, side of a cell in pixels.

    Returns:
        (B, 9, H / c, W / c): the means, the darkest and the brightest values, RGB each.

    Raises:
        ValueError: a side is no multiple of the cell size.
    """
    if image.shape[-2] % cell_size or image.shape[-1] % cell_size:
        raise ValueError(f"{tuple(image.shape[-2:])} pixels are no cells of {cell_size} pixels")
    return torch.cat(
        [
            F.avg_pool2d(image, cell_size),
            -F.max_pool2d(-image, cell_size),
            F.max_pool2d(image, cell_size),
        ],
        dim=1,
    )
