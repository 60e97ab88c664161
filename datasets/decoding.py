"""Pictures of a data set as RGB, whatever the files hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

IMAGE_EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm"})


class UnreadableImageError(OSError):
    """A file that does not decode, or that holds no photograph that could be scored."""


@dataclass(frozen=True)
class DecodedImage:
    """One decoded picture.

    Attributes:
        pixels: (H, W, 3) uint8 RGB in [0, 255], upright (the EXIF orientation is applied).
        conversion: what had to be done to get there ("mode L", "16 bits"), or None for 8-bit RGB.
    """

    pixels: NDArray[np.uint8]
    conversion: str | None


def read_rgb(path: Path) -> DecodedImage:
    """Read a picture as 8-bit RGB.

    Grey, palette and CMYK pictures are converted, an opaque alpha channel is dropped, 16 bits are
    rounded to 8 (v / 257). Each of these is named in ``conversion``, so that it can be counted.

    Args:
        path: a file with one of ``IMAGE_EXTENSIONS``.

    Returns:
        The picture and what was done to it.

    Raises:
        UnreadableImageError: the file is missing, truncated, no picture, floating point, or has
            transparent pixels, whose colour is undefined.
    """
    try:
        with Image.open(path) as image:
            if _is_deep(image):
                return _read_deep(path)
            return _to_rgb(path, ImageOps.exif_transpose(image))
    except FileNotFoundError as error:
        raise UnreadableImageError(f"{path}: no such file") from error
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(f"{path}: not a picture that can be decoded") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        # Pillow reports a broken PNG chunk as SyntaxError and a cut-off stream as OSError.
        if isinstance(error, UnreadableImageError):
            raise
        raise UnreadableImageError(f"{path}: does not decode ({error})") from error


def _is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether the file holds more than 8 bits a sample, from its header and never from its values.

    Pillow opens a 16-bit RGB PNG as mode RGB and drops the low byte: only the raw mode tells.
    """
    raw_modes = [tile[3][0] if isinstance(tile[3], tuple) else tile[3] for tile in image.tile]
    return image.mode.startswith(("I", "F")) or any("16" in str(mode) for mode in raw_modes)


def _read_deep(path: Path) -> DecodedImage:
    encoded = np.fromfile(path, dtype=np.uint8)
    pixels = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise UnreadableImageError(
            f"{path}: neither 8 nor 16 bits a sample; convert it to 8-bit PNG first"
        )
    if pixels.ndim == 3 and pixels.shape[2] == 4 and pixels[..., 3].min() < 65535:
        raise _transparent(path)
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    code = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}[channels]
    rgb = cv2.cvtColor(pixels, code)
    rounded = (rgb.astype(np.uint32) + 128) // 257
    return DecodedImage(pixels=rounded.astype(np.uint8), conversion="16 bits")


def _transparent(path: Path) -> UnreadableImageError:
    return UnreadableImageError(
        f"{path}: has transparent pixels, whose colour is undefined; flatten it first"
    )


def _to_rgb(path: Path, image: Image.Image) -> DecodedImage:
    conversion = None if image.mode == "RGB" else f"mode {image.mode}"
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise _transparent(path)
    return DecodedImage(
        pixels=np.asarray(image.convert("RGB"), dtype=np.uint8), conversion=conversion
    )
