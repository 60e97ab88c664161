"""Photos of any size to a model's latents, and back to pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dehaze.models.needs import ModelDescription
from dehaze.network import HALF_PRECISION, NonFiniteError, in_single_precision, turn_of
from dehaze.recovery.guided_filter import resize

Array = NDArray[np.float32]

logger = logging.getLogger(__name__)

# Largest long side of a working picture, in units of the model's short side.
_LARGEST_RATIO = 8


@dataclass(frozen=True)
class PhotoCodec:
    """A model's codec for photos of any size: resizes and pads them, and crops the pictures.

    Attributes:
        vae: AutoencoderKL, PixelUnshuffleCodec or CellsCodec.
        description: the model's needs.
        device: that the codec runs on.
    """

    vae: Any
    description: ModelDescription
    device: torch.device

    def working_size(self, photo: Array) -> tuple[int, int]:
        """(height, width) of a photo at the model's short side.

        With a codec of cells it is in cells of several pixels. A strip is made smaller, so that its
        long side is at most ``_LARGEST_RATIO`` short sides, and within the model's own limit. The
        network's time and memory grow with the square of the area.
        """
        height, width = photo.shape[:2]
        short = self.description.short_side
        scale, least = short / min(height, width), short
        longest = _LARGEST_RATIO * short
        longest = min(longest, self.description.long_side or longest)
        if max(height, width) * short > longest * min(height, width):
            scale, least = longest / max(height, width), 1
        return max(least, round(height * scale)), max(least, round(width * scale))

    def padded_size(self, photo: Array) -> tuple[int, int]:
        """(height, width) of a photo as it is encoded; photos of one such size can share a batch.

        Strips are mirrored up to the model's short side, all photos up to its size multiple.
        """
        multiple, short = self.description.size_multiple, self.description.short_side
        height, width = (max(side, short) for side in self.working_size(photo))
        return height + -height % multiple, width + -width % multiple

    def latent_size(self, photo: Array) -> tuple[int, int]:
        """(h, w) of a photo's latents."""
        height, width = self.padded_size(photo)
        scale = self.description.pixels_per_latent
        return height // scale, width // scale

    def pixels_of(self, latent_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) in pixels that latents of (h, w) stand for, padding included."""
        scale = self.description.pixels_per_latent
        return latent_size[0] * scale, latent_size[1] * scale

    def reduced(self, photo: Array) -> Array:
        """The photo at the working size, float32 (h, w, 3), to compare with ``decode``."""
        size = self.working_size(photo)
        return resize(resize(photo, self._times_cell(size)), size)

    def enlarged(self, heat: Array, photo: Array) -> Array:
        """A map over a photo's latents, float32 (h', w'), at the photo's own size, (H, W)."""
        height, width = self.working_size(photo)
        cropped = resize(heat, self.padded_size(photo))[:height, :width]
        return cv2.resize(cropped, photo.shape[1::-1], interpolation=cv2.INTER_LINEAR)

    @torch.no_grad()
    def encode(self, photo: Array) -> Tensor:
        """z_0 of a photo, float32 (1, C, h, w): resized, mirrored up to the size multiple, encoded.

        The codec's own scaling and shift are applied, and its posterior's mode is taken.

        Raises:
            NonFiniteError: the codec returned values that are not finite, in float32 too.
        """
        small = resize(photo, self._times_cell(self.working_size(photo)))
        beyond = np.subtract(self._times_cell(self.padded_size(photo)), small.shape[:2])
        padded = np.pad(small, ((0, beyond[0]), (0, beyond[1]), (0, 0)), mode="symmetric")
        image = torch.from_numpy(np.ascontiguousarray(padded)).permute(2, 0, 1)[None] * 2.0 - 1.0
        latents = self._evaluated(lambda pixels: self.vae.encode(pixels).latent_dist.mode(), image)
        return (latents - self._shift) * float(self.vae.config.scaling_factor)

    def encode_batch(self, photos: Sequence[Array]) -> Tensor:
        """z_0 of photos, float32 (B, C, h, w), encoded one at a time to save memory.

        Raises:
            ValueError: the photos differ in their padded size.
        """
        sizes = sorted({self.padded_size(photo) for photo in photos})
        if len(sizes) != 1:
            raise ValueError(f"the photos of a batch are of one padded size, not of {sizes}")
        return torch.cat([self.encode(photo) for photo in photos])

    def decode(self, latents: Tensor, size: tuple[int, int]) -> Array:
        """The picture of latents (1, C, h, w), cropped to ``size``: float32 (h, w, 3) in [0, 1]."""
        return np.ascontiguousarray(self.decode_all(latents, size)[..., :3])

    @torch.no_grad()
    def decode_all(self, latents: Tensor, size: tuple[int, int]) -> Array:
        """As ``decode``, with all that the codec gives for each pixel: float32 (h, w, 3 or 9).

        ``CellsCodec`` gives means, darkest and brightest values; an autoencoder only the picture.

        Raises:
            NonFiniteError: the codec returned values that are not finite, in float32 too.
        """
        image = self.decode_tensor(latents)
        pixels = image[0, :, : size[0], : size[1]].permute(1, 2, 0).cpu().numpy()
        return np.clip(pixels, 0.0, 1.0).astype(np.float32)

    def decode_tensor(self, latents: Tensor) -> Tensor:
        """The pictures of latents (B, C, h, w), with a gradient.

        Returns:
            float32 (B, 3 or 9, H, W), nearly in [0, 1], padding included; RGB comes first.

        Raises:
            NonFiniteError: the codec returned values that are not finite.
        """
        scaled = latents / float(self.vae.config.scaling_factor) + self._shift
        image = self._evaluated(lambda z: self.vae.decode(z).sample, scaled)
        return image * 0.5 + 0.5

    def _evaluated(self, part: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
        """The output of a part of the codec, in float32.

        In half precision an autoencoder may overflow, as that of Stable Diffusion XL does. It is
        then evaluated again in float32, except under gradients, which need the weights as they are.
        An overflow in any layer shows as values at the end that are not finite.
        """
        turn = turn_of(self.vae)
        with turn:
            dtype = self.vae.dtype
        half = dtype in HALF_PRECISION
        with turn if half else nullcontext():
            made = part(values.to(self.device, dtype)).float()
            if half and not torch.is_grad_enabled() and not bool(torch.isfinite(made).all()):
                logger.warning("the codec is not finite in %s: again in float32", dtype)
                dtype = torch.float32
                with in_single_precision(self.vae):
                    made = part(values.to(self.device, dtype))
        if not bool(torch.isfinite(made).all()):
            tried = dtype == torch.float32
            cure = "its weights are damaged, get them again" if tried else "run it in float32"
            raise NonFiniteError(f"the codec's output is not finite in {dtype}: {cure}")
        return made

    def _times_cell(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size, in pixels, that the codec reads for a picture of ``size``."""
        cell = int(getattr(self.vae.config, "cell_size", 1))
        return size[0] * cell, size[1] * cell

    @property
    def _shift(self) -> float:
        return float(getattr(self.vae.config, "shift_factor", None) or 0.0)
