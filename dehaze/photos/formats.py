"""The formats of photos that are read and written, by their names."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dehaze.photos.bmp import BmpContainer, open_bmp
from dehaze.photos.jpeg import JpegContainer, open_jpeg
from dehaze.photos.photo import Container, Source
from dehaze.photos.png import PngContainer, open_png
from dehaze.photos.tiff import open_tiff
from dehaze.photos.tiff_container import TiffContainer
from dehaze.photos.webp import WebpContainer, open_webp
from dehaze.registry import Registry


@dataclass(frozen=True)
class Format:
    """A format of photos.

    Attributes:
        beginning: a pattern of the first bytes of its files.
        open: reads the header of a file's bytes.
        container: the class that holds everything in its files besides the pixels.
        bytes_per_pixel: approximate size of its files, for photos with 8 bits a channel.
        depths: bits a channel that its files can have.
        has_alpha: whether they can be transparent.
        has_grey: whether they can have one channel of colour.
        has_quality: whether their containers have a ``quality``, 1 to 100.
    """

    beginning: bytes
    open: Callable[[bytes], Source]
    container: type[Container]
    bytes_per_pixel: float
    depths: tuple[int, ...] = (8,)
    has_alpha: bool = True
    has_grey: bool = True
    has_quality: bool = False

    def begins(self, data: bytes) -> bool:
        """Whether a file of these bytes begins as those of this format do."""
        return re.match(self.beginning, data, re.DOTALL) is not None


FORMATS: Registry[Format] = Registry("photo format")
for _name, _format in {
    "JPEG": Format(
        rb"\xff\xd8\xff", open_jpeg, JpegContainer, 0.45, has_alpha=False, has_quality=True
    ),
    "PNG": Format(rb"\x89PNG\r\n\x1a\n", open_png, PngContainer, 1.6, depths=(8, 16)),
    "TIFF": Format(rb"II[*+]\0|MM\0[*+]", open_tiff, TiffContainer, 1.6, depths=(8, 16)),
    "WEBP": Format(
        rb"RIFF....WEBP", open_webp, WebpContainer, 0.3, has_grey=False, has_quality=True
    ),
    "BMP": Format(rb"BM", open_bmp, BmpContainer, 3.0),
}.items():
    FORMATS.register(_name, _format)

# The length of the longest pattern of a beginning, in bytes.
_BEGINNING = 16


def format_of_file(path: Path) -> Format | None:
    """The format of a file by its first bytes; None where they fit no format."""
    if not path.is_file():
        # Opening a pipe would wait for somebody to write to it.
        return None
    try:
        with path.open("rb") as file:
            data = file.read(_BEGINNING)
    except OSError:
        return None
    return next((each for each in FORMATS if each.begins(data)), None)
