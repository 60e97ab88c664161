"""Reads photos in all types that callers use, and returns pictures in all types."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from dehaze.levels import from_levels, to_levels
from dehaze.recovery.guided_filter import resize
from dehaze.registry import Registry

Array = NDArray[np.float32]

Photo = Image.Image | NDArray[Any] | Tensor
"""One photo, see ``as_pixels``."""

AlikePhotos = list[Image.Image] | list[NDArray[Any]] | list[Tensor]
"""Photos of one kind, since to a type checker a list of arrays is no ``list[Photo]``."""


def as_photos(image: Any) -> tuple[list[Array], bool]:
    """The photos that were given, and whether they were given as several.

    Args:
        image: one photo, see ``as_pixels``; a list of photos; or a tensor (B, 3, H, W).

    Raises:
        ValueError: a photo cannot be read, or there is none.
    """
    several = isinstance(image, list) or (isinstance(image, Tensor) and image.ndim == 4)
    photos = list(image) if several else [image]
    if not photos:
        raise ValueError("there is no photo: give one, or a list of them")
    return [as_pixels(photo) for photo in photos], several


def as_pixels(image: Any) -> Array:
    """A photo as float32 (H, W, 3) RGB in [0, 1].

    Args:
        image: PIL of any mode of eight bits, turned upright by its EXIF orientation; an array
            (H, W, 3), uint8 in [0, 255], uint16 in [0, 65535] or float in [0, 1]; or a float tensor
            (3, H, W) in [0, 1], as diffusers' ``VaeImageProcessor`` takes it. The type decides,
            never the values.

    Raises:
        ValueError: another shape or type, values that are not finite, or floats outside [0, 1].
    """
    if isinstance(image, Image.Image):
        if image.mode.startswith(("I", "F")):
            # PIL would clip all that is above 255.
            raise ValueError(
                f"a PIL photo has eight bits, not the mode {image.mode}: read the file with "
                "dehaze.read_photo, and give its pixels"
            )
        image = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
            raise ValueError(
                f"a photo as a tensor is float (3, H, W), not {image.dtype} {tuple(image.shape)}"
            )
        image = image.detach().permute(1, 2, 0).float().cpu().numpy()
    pixels = np.asarray(image)
    if pixels.dtype.kind not in "fiub":
        raise ValueError(
            f"a photo is a PIL image, an array or a tensor, not {type(image).__name__}: read a "
            "file with dehaze.read_photo"
        )
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"a photo is (H, W, 3), not {pixels.shape}")
    if pixels.dtype in (np.uint8, np.uint16):
        return from_levels(pixels)
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(f"a photo is uint8, uint16 or float, not {pixels.dtype}")
    if not np.isfinite(pixels).all():
        raise ValueError("the photo has values that are not finite")
    if pixels.min() < 0.0 or pixels.max() > 1.0:
        raise ValueError(f"a float photo is in [0, 1], not [{pixels.min():g}, {pixels.max():g}]")
    return np.ascontiguousarray(pixels, dtype=np.float32)


def cut_like(photo: Array, size: tuple[int, int]) -> Array:
    """The middle of a photo, at the proportions of ``size`` and at that size.

    Args:
        photo: float32 (H, W, 3).
        size: (height, width) in pixels, of another photo for instance.
    """
    height, width = _middle(photo, size)
    top, left = (photo.shape[0] - height) // 2, (photo.shape[1] - width) // 2
    return resize(photo[top : top + height, left : left + width], size)


def is_cut(photo: Array, size: tuple[int, int]) -> bool:
    """Whether ``cut_like`` leaves out more than a hundredth of a photo."""
    height, width = _middle(photo, size)
    return height * width < 0.99 * photo.shape[0] * photo.shape[1]


def _middle(photo: Array, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in pixels of the part of a photo that has the proportions of ``size``."""
    scale = min(photo.shape[0] / size[0], photo.shape[1] / size[1])
    height, width = (max(1, round(side * scale)) for side in size)
    return height, width


def photo_hash(photo: Array) -> str:
    """SHA-256 of a photo's size and pixels, float32 (H, W, 3)."""
    content = hashlib.sha256(str(photo.shape).encode())
    content.update(np.ascontiguousarray(photo).tobytes())
    return content.hexdigest()


def _as_pil(pixels: Array) -> Image.Image:
    return Image.fromarray(to_levels(pixels))


def _as_tensor(pixels: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


OUTPUT_TYPES: Registry[Callable[[Array], Any]] = Registry("output_type")
"""Conversions of a picture, float32 (H, W, 3) in [0, 1], by diffusers' names."""

OUTPUT_TYPES.register("np", lambda pixels: pixels)
OUTPUT_TYPES.register("pil", _as_pil)
OUTPUT_TYPES.register("pt", _as_tensor)
