"""The formats of photos that are read and written, by their names."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from dehaze.photos.bmp import BmpContainer, open_bmp
from dehaze.photos.jpeg import JpegContainer, open_jpeg
from dehaze.photos.photo import Container, Metadata, Source
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
        labelled: makes one with those of the metadata that it has a place for.
        bytes_per_pixel: about what its files take, of photos with 8 bits a channel.
        depths: bits a channel that its files can have.
        has_alpha: whether they can be transparent.
        has_grey: whether they can have one channel of colour.
        has_quality: whether their containers have a ``quality``, 1 to 100.
    """

    beginning: re.Pattern[bytes]
    open: Callable[[bytes], Source]
    container: Callable[[], Container]
    labelled: Callable[[Metadata], Container]
    bytes_per_pixel: float
    depths: tuple[int, ...] = (8,)
    has_alpha: bool = True
    has_grey: bool = True
    has_quality: bool = False


FORMATS: Registry[Format] = Registry("photo format")
for _name, _beginning, _open, _container, _bytes_per_pixel, _limits in (
    (
        "JPEG",
        rb"\xff\xd8\xff",
        open_jpeg,
        JpegContainer,
        0.45,
        {"has_alpha": False, "has_quality": True},
    ),
    ("PNG", rb"\x89PNG\r\n\x1a\n", open_png, PngContainer, 1.6, {"depths": (8, 16)}),
    ("TIFF", rb"II[*+]\0|MM\0[*+]", open_tiff, TiffContainer, 1.6, {"depths": (8, 16)}),
    (
        "WEBP",
        rb"RIFF....WEBP",
        open_webp,
        WebpContainer,
        0.3,
        {"has_grey": False, "has_quality": True},
    ),
    ("BMP", rb"BM", open_bmp, BmpContainer, 3.0, {}),
):
    FORMATS.register(
        _name,
        Format(
            re.compile(_beginning, re.DOTALL),
            _open,
            _container,
            _container.labelled,
            _bytes_per_pixel,
            **_limits,
        ),
    )
