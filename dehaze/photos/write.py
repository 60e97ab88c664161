"""Write photos the way their sources were written."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np

from dehaze.levels import to_levels
from dehaze.luma import luma
from dehaze.photos.atomic import write_bytes
from dehaze.photos.formats import FORMATS
from dehaze.photos.kinds import format_of, suffixes_of
from dehaze.photos.photo import Encoding, FloatArray, Photo, PhotoError, Samples

_ROWS = 64


def check_name(path: Path, like: Photo) -> None:
    """Check, before any work, that a file's suffix names the format that will be written to it.

    Args:
        path: the file that a result goes to.
        like: the photo whose format the result keeps.

    Raises:
        PhotoError: the suffix names another format, or none.
    """
    named, written = format_of(path), like.encoding.format
    if named != written:
        raise PhotoError(
            path,
            f"names {named}, and the result is {written} as its photo is",
            f"end the name in {', '.join(suffixes_of(written))}",
        )


def write_photo(
    path: str | os.PathLike[str], pixels: FloatArray, like: Photo | None = None
) -> None:
    """Write pixels the way the photo they came from was written; all of the file or none of it.

    Values are clipped to [0, 1] and rounded half to even. A grey photo gets the luma (Rec. 601) of
    the pixels; the alpha of ``like`` is written untouched.

    Args:
        path: the file to write, replaced if it exists. Its folder must exist.
        pixels: (H, W, 3) RGB in [0, 1], upright.
        like: the photo that ``pixels`` were made from: its format, depth and metadata are kept,
            whatever the suffix. None: 8-bit RGB in the format of the suffix.

    Raises:
        PhotoError: pixels that are not finite, an unknown suffix, or a file that cannot be written.
        ValueError: pixels of another shape than (H, W, 3), or than ``like`` with an alpha.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from dehaze.photos import read_photo, write_photo
        >>> with TemporaryDirectory() as folder:
        ...     write_photo(Path(folder) / "a.png", photo)
        ...     source = read_photo(Path(folder) / "a.png")
        ...     write_photo(Path(folder) / "b.png", 1 - source.pixels, like=source)
        ...     float(read_photo(Path(folder) / "b.png").pixels[0, 0, 0])
        1.0
    """
    path = Path(path)
    if like is None:
        like = Photo(pixels, encoding=Encoding(format=format_of(path)))
    write_bytes(path, encode_photo(path, pixels, like))


def encode_photo(path: Path, pixels: FloatArray, like: Photo) -> bytes:
    """The bytes of the file that ``write_photo`` writes; arguments and errors are the same."""
    if not isinstance(pixels, np.ndarray) or pixels.dtype.kind != "f":
        kind = pixels.dtype if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise ValueError(f"pixels are an array of floats in [0, 1], not {kind}")
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"pixels must have shape (H, W, 3), not {pixels.shape}")
    if like.alpha is not None and like.alpha.shape != pixels.shape[:2]:
        raise ValueError(f"pixels of shape {pixels.shape} do not fit alpha {like.alpha.shape}")
    if not np.isfinite(pixels).all():
        raise PhotoError(
            path, "the result holds values that are not numbers", "try --dtype float32"
        )
    encoding = like.encoding
    container = encoding.container or FORMATS.get(encoding.format).container()
    try:
        return container.encode(_samples(pixels, like.alpha, encoding))
    except (OSError, ValueError, struct.error) as error:
        raise PhotoError(
            path,
            f"cannot be encoded as {encoding.format} ({error})",
            "convert the source to PNG and try again",
        ) from error


def _samples(pixels: FloatArray, alpha: FloatArray | None, encoding: Encoding) -> Samples:
    """Samples as they are stored, (H, W, 1 to 4): grey or RGB, then alpha."""
    colours = 1 if encoding.grey else 3
    shape = (*pixels.shape[:2], colours + (alpha is not None))
    samples = np.empty(shape, np.uint8 if encoding.bits == 8 else np.uint16)
    # A few rows at a time fit in the processor's cache and take little memory.
    for top in range(0, len(pixels), _ROWS):
        rows = slice(top, top + _ROWS)
        values = luma(pixels[rows])[..., None] if encoding.grey else pixels[rows]
        if alpha is not None:
            if encoding.premultiplied:
                values = np.clip(values, 0, 1) * alpha[rows, :, None]
            samples[rows, :, -1] = to_levels(alpha[rows], encoding.bits)
        samples[rows, :, :colours] = to_levels(values, encoding.bits)
    return samples
