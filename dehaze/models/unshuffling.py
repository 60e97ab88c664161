"""What the codecs of this project compute: latents by moving pixels alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class ExactLatent:
    """The latent distribution of a deterministic codec, a single point."""

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


class PixelUnshuffling:
    """What ``PixelUnshuffleCodec`` computes, given its ``config``."""

    config: Any

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
        return int(self.config["patch_size"])


class CellsUnshuffling:
    """What ``CellsCodec`` computes, given its ``config``."""

    config: Any

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
        return int(self.config[name])


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
