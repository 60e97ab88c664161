"""A photo in memory, and the error of one that cannot be read or written."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dehaze.errors import DehazeError

FloatArray = npt.NDArray[np.float32]


class PhotoError(DehazeError, ValueError):
    """A photo that cannot be read or written: one line of input, cause and cure."""

    def __init__(self, path: str | os.PathLike[str], cause: str, cure: str) -> None:
        self.path = Path(path)
        self.cause = " ".join(cause.split())
        self.cure = cure
        super().__init__(f"{printable(path)}: {self.cause}; {self.cure}")

    def __reduce__(self) -> tuple[type[PhotoError], tuple[Path, str, str]]:
        return type(self), (self.path, self.cause, self.cure)


@dataclass(frozen=True)
class Encoding:
    """How a photo lay in its file, as far as the same can be written again.

    Attributes:
        format: "JPEG", "PNG", "TIFF", "WEBP" or "BMP".
        bits: bits a channel, 8 or 16, from the file's own header.
        grey: one channel of colour instead of three.
        exif: EXIF bytes ("Exif" prefix and TIFF structure) with the orientation reset, or None.
        icc_profile: colour profile bytes, or None.
        xmp: XMP packet bytes, or None.
        dots_per_inch: horizontal and vertical, or None.
        quantisation: JPEG quantisation tables by index, 64 values each, or None.
        subsampling: JPEG chroma subsampling: 0 is 4:4:4, 1 is 4:2:2, 2 is 4:2:0.
        progressive: JPEG in several scans.
        lossless: WebP without loss.
    """

    format: str = "PNG"
    bits: int = 8
    grey: bool = False
    exif: bytes | None = None
    icc_profile: bytes | None = None
    xmp: bytes | None = None
    dots_per_inch: tuple[float, float] | None = None
    quantisation: dict[int, list[int]] | None = None
    subsampling: int = 0
    progressive: bool = False
    lossless: bool = True


@dataclass(frozen=True)
class Photo:
    """A photo in memory, upright.

    Attributes:
        pixels: (H, W, 3) float32 RGB in [0, 1], as encoded in the file (sRGB unless the profile
            says otherwise). A grey photo has three equal channels.
        alpha: (H, W) float32 opacity in [0, 1], or None.
        encoding: what is needed to write the photo as it came.
        notes: one sentence for each thing that cannot come back as it was.
    """

    pixels: FloatArray
    alpha: FloatArray | None = None
    encoding: Encoding = field(default_factory=Encoding)
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, after the EXIF orientation."""
        return self.pixels.shape[1], self.pixels.shape[0]


def printable(path: str | os.PathLike[str]) -> str:
    """A path on one line: a name with newlines or undecodable bytes comes escaped, in quotes."""
    text = os.fspath(path)
    return text if text.isprintable() else ascii(text)
