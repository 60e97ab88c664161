"""A photo in memory, the rest of its file, and the errors of both."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dehaze.errors import DehazeError

FloatArray = npt.NDArray[np.float32]
# uint8 or uint16, (H, W, 1 to 4): grey or RGB, then alpha.
Samples = npt.NDArray[Any]

COPY_AGAIN = "copy it again from where it came"


class FileError(DehazeError, ValueError):
    """A file that cannot be read or written: one line of input, cause and cure."""

    def __init__(self, path: str | os.PathLike[str], cause: str, cure: str) -> None:
        self.path = Path(path)
        self.cause = " ".join(cause.split())
        self.cure = cure
        super().__init__(f"{printable(path)}: {self.cause}; {self.cure}")

    def __reduce__(self) -> tuple[type[FileError], tuple[Path, str, str]]:
        return type(self), (self.path, self.cause, self.cure)


class PhotoError(FileError):
    """A photo that cannot be read or written."""


class UnreadableError(DehazeError, ValueError):
    """Bytes cannot be read as a photo: cause and cure of a ``PhotoError``, without the path."""

    def __init__(self, cause: str, cure: str = COPY_AGAIN) -> None:
        self.cause = cause
        self.cure = cure
        super().__init__(f"{cause}; {cure}")


@dataclass(frozen=True)
class Metadata:
    """Metadata of a photo that other formats have a place for as well.

    Attributes:
        exif: an EXIF block from its byte order mark on, or empty.
        xmp: an XMP packet, or empty.
        profile: an ICC colour profile, or empty.
        orientation: 1 to 8, as the block and the packet state it; the pixels are upright.
        others: names of all other metadata.
    """

    exif: bytes = b""
    xmp: bytes = b""
    profile: bytes = b""
    orientation: int = 1
    others: tuple[str, ...] = ()


class Container(Protocol):
    """Everything in a file besides its pixels, and its layout around them.

    Each format has its own class. A container made without arguments has no metadata.
    """

    def encode(self, samples: Samples) -> bytes:
        """A whole file with these samples, (H, W, 1 to 4) uint8 or uint16, upright."""

    @property
    def metadata(self) -> Metadata:
        """The metadata that other formats have a place for."""

    @classmethod
    def labelled(cls, metadata: Metadata) -> Container:
        """A container with the metadata that this format has a place for."""


class Source(Protocol):
    """A file of one format, its header read and its samples not decoded yet."""

    @property
    def width(self) -> int:
        """In pixels, as stored."""

    @property
    def height(self) -> int:
        """In pixels, as stored."""

    @property
    def orientation(self) -> int:
        """1 to 8, as EXIF numbers them."""

    @property
    def premultiplied(self) -> bool:
        """Whether colours are stored times alpha."""

    def decode(self) -> Decoded:
        """Decode the samples.

        Raises:
            UnreadableError: of a kind that cannot be read.
            Exception: any error of the decoder, for damaged data.
        """


@dataclass(frozen=True)
class Decoded:
    """The samples of a file as it stores them.

    Attributes:
        samples: (H, W, 1 to 4), uint8 or uint16, not turned upright.
        container: all else that the file has.
        notes: one sentence for each thing that cannot come back as it was.
    """

    samples: Samples
    container: Container
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Encoding:
    """The format and settings of a photo's file.

    Attributes:
        format: "JPEG", "PNG", "TIFF", "WEBP" or "BMP".
        bits: bits a channel, 8 or 16, from the file's own header.
        grey: one channel of colour instead of three.
        premultiplied: colours are stored times alpha.
        container: the metadata and settings of the file that the photo came from, or None.
    """

    format: str = "PNG"
    bits: int = 8
    grey: bool = False
    premultiplied: bool = False
    container: Container | None = None


@dataclass(frozen=True)
class Photo:
    """A photo in memory, upright.

    Attributes:
        pixels: (H, W, 3) float32 RGB in [0, 1], as encoded in the file (sRGB unless the profile
            says otherwise). A grey photo has three equal channels.
        alpha: (H, W) float32 opacity in [0, 1], or None. Pixels are never multiplied by it.
        encoding: all that is needed to write the photo in its own format.
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
    """A path on one line; a name with newlines or undecodable bytes is escaped, in quotes."""
    text = os.fspath(path)
    return text if text.isprintable() else ascii(text)
