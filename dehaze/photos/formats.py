"""The formats of photos that are read and written, by their names."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from dehaze.photos.bmp import BmpContainer, open_bmp
from dehaze.photos.jpeg import JpegContainer, open_jpeg
from dehaze.photos.photo import Container, Source
from dehaze.photos.png import PngContainer, open_png
from dehaze.photos.tiff import TiffContainer, open_tiff
from dehaze.photos.webp import WebpContainer, open_webp
from dehaze.registry import Registry


@dataclass(frozen=True)
class Format:
    """A format of photos.

    Attributes:
        beginning: matches the first bytes of its files.
        open: reads the header of a file's bytes.
        container: makes one without metadata.
    """

    beginning: re.Pattern[bytes]
    open: Callable[[bytes], Source]
    container: Callable[[], Container]


FORMATS: Registry[Format] = Registry("photo format")
for _name, _beginning, _open, _container in (
    ("JPEG", rb"\xff\xd8\xff", open_jpeg, JpegContainer),
    ("PNG", rb"\x89PNG\r\n\x1a\n", open_png, PngContainer),
    ("TIFF", rb"II[*+]\0|MM\0[*+]", open_tiff, TiffContainer),
    ("WEBP", rb"RIFF....WEBP", open_webp, WebpContainer),
    ("BMP", rb"BM", open_bmp, BmpContainer),
):
    FORMATS.register(_name, Format(re.compile(_beginning, re.DOTALL), _open, _container))
