"""Thumbnails, as the bytes of a WebP file."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dehaze.levels import to_levels

THUMBNAIL_SIDE = 480
"""Long side of a picture in a report, in pixels. It takes some 10 kB, so a thousand photos fit."""

_QUALITY = 62


def shrunk(pixels: NDArray[Any], side: int = THUMBNAIL_SIDE) -> NDArray[Any]:
    """A picture or a map, area means, at a long side of at most ``side`` pixels."""
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))


def eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Values in [0, 1] as levels of 0 to 255; uint8 stays as it is."""
    if values.dtype == np.uint8:
        return values
    return to_levels(values)


def thumbnail(pixels: NDArray[Any], side: int = THUMBNAIL_SIDE) -> bytes:
    """A picture at a long side of at most ``side`` pixels, as WebP.

    Args:
        pixels: (H, W, 3) RGB or (H, W) grey, float in [0, 1] or uint8.
        side: long side of the result, in pixels.

    Returns:
        the bytes of a WebP file.

    Example:
        >>> picture = thumbnail(np.zeros((300, 900, 3), np.float32))
        >>> Image.open(io.BytesIO(picture)).size
        (480, 160)
    """
    small = eight_bits(shrunk(pixels, side))
    buffer = io.BytesIO()
    Image.fromarray(small).convert("RGB").save(buffer, "WEBP", quality=_QUALITY, method=4)
    return buffer.getvalue()


def false_colours(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A map in [0, 1] in the colours of "inferno": (H, W) becomes (H, W, 3) uint8 RGB."""
    levels = eight_bits(values)
    return np.ascontiguousarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1])
