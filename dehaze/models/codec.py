"""Codecs without a loss to learn, with the interface of a variational autoencoder."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin

from dehaze.models.unshuffling import CellsUnshuffling, PixelUnshuffling


class PixelUnshuffleCodec(PixelUnshuffling, ModelMixin, ConfigMixin):
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


class CellsCodec(CellsUnshuffling, ModelMixin, ConfigMixin):
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
