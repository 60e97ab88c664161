"""Codecs without weights, with the interface of a variational autoencoder."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin

from dehaze.models.unshuffling import CellsUnshuffling, PixelUnshuffling


class PixelUnshuffleCodec(PixelUnshuffling, ModelMixin, ConfigMixin):
    """Moves each patch of pixels into channels, and back, without loss.

    Args:
        patch_size: p, the side of a patch in pixels.
        scaling_factor: factor of the latents, as an autoencoder has it; 2 brings photographs in
            [-1, 1] to about unit variance.
    """

    @register_to_config
    def __init__(self, patch_size: int = 2, scaling_factor: float = 2.0) -> None:
        super().__init__()
        # A module without a tensor has neither dtype nor device, which pipelines ask for.
        self.register_buffer("anchor", torch.zeros(1))


class CellsCodec(CellsUnshuffling, ModelMixin, ConfigMixin):
    """Mean, darkest and brightest value of each cell: a small picture of nine channels.

    A cell is a square of pixels. If t is the same in a cell, haze I = J t + A (1 - t) keeps the
    order of its pixels (t > 0). The mean, the minimum and the maximum of each channel then obey the
    same equation exactly, and even a shadow of one pixel is kept. All else within a cell is lost.
    The small picture itself is unshuffled without loss.

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
