"""The pictures of a data set as 8-bit RGB, whatever the format of their files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dehaze.levels import from_levels, to_levels
from dehaze.photos import PhotoError, read_photo


@dataclass(frozen=True)
class DecodedImage:
    """One decoded picture.

    Attributes:
        pixels: (H, W, 3) uint8 RGB in [0, 255], upright (the EXIF orientation is applied).
        conversion: what the file holds instead ("grey", "16 bits, alpha"), or None for 8-bit RGB.
    """

    pixels: NDArray[np.uint8]
    conversion: str | None


def read_rgb(path: Path) -> DecodedImage:
    """Read a picture as 8-bit RGB.

    A grey picture gets three equal channels, CMYK is converted to RGB, an opaque alpha channel is
    dropped, and 16 bits are rounded to 8 (v / 257). ``conversion`` names each of these.

    Raises:
        PhotoError: the file does not decode, or has transparent pixels, whose colour is undefined.
    """
    photo = read_photo(path)
    if photo.alpha is not None and float(photo.alpha.min()) < 1:
        raise PhotoError(
            path, "has transparent pixels, whose colour is undefined", "flatten it first"
        )
    kinds = ["16 bits"] if photo.encoding.bits == 16 else []
    kinds += ["grey"] if photo.encoding.grey else []
    kinds += ["alpha"] if photo.alpha is not None else []
    kinds += photo.notes
    return DecodedImage(
        pixels=to_levels(photo.pixels),
        conversion=", ".join(kinds) or None,
    )


class PhotoFiles:
    """Photos that are decoded one by one when iterated, so that thousands take no memory.

    Args:
        files: of the photos.

    Iterating gives float32 (H, W, 3) RGB in [0, 1], as ``read_rgb`` decodes them, and raises
    ``PhotoError`` where it does.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._files = tuple(files)

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        for file in self._files:
            yield from_levels(read_rgb(file).pixels)
