"""A lossless codec with the interface of a variational autoencoder."""

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
    """What ``encode`` returns; ``latent_dist.mode()`` is (B, 3 p^2, H / p, W / p)."""

    latent_dist: ExactLatent


@dataclass(frozen=True)
class CodecDecoding:
    """What ``decode`` returns; ``sample`` is (B, 3, H, W), about [-1, 1]."""

    sample: Tensor


class PixelUnshuffleCodec(ModelMixin, ConfigMixin):
    """Moves each patch of pixels into channels, and back: nothing is lost either way.

    Args:
        patch_size: p, the side of a patch in pixels.
        scaling_factor: what latents are multiplied by before they are noised, as an autoencoder's
            own factor is; 2 brings photographs in [-1, 1] to about unit variance.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(self, patch_size: int = 2, scaling_factor: float = 2.0) -> None:
        super().__init__()
        # A model without a tensor has neither dtype nor device, and a pipeline asks for both.
        self.register_buffer("anchor", torch.zeros(1))

    def encode(self, image: Tensor) -> CodecEncoding:
        """(B, 3, H, W) with H and W multiples of the patch size -> (B, 3 p^2, H / p, W / p)."""
        return CodecEncoding(ExactLatent(F.pixel_unshuffle(image, self._patch_size)))

    def decode(self, latent: Tensor) -> CodecDecoding:
        """(B, 3 p^2, h, w) -> (B, 3, p h, p w)."""
        return CodecDecoding(F.pixel_shuffle(latent, self._patch_size))

    @property
    def _patch_size(self) -> int:
        config: Any = self.config
        return int(config.patch_size)
