"""Which files are photos that can be read, and what to do with those that cannot."""

from __future__ import annotations

import re
from pathlib import Path

from dehaze.photos.photo import PhotoError

PHOTO_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".webp", ".bmp"}
)
RAW_SUFFIXES = frozenset(
    {".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".iiq", ".kdc", ".mrw", ".nef"}
    | {".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"}
)
# Pictures a camera makes that cannot be read here: they are named as failures, never passed over.
UNSUPPORTED_SUFFIXES = RAW_SUFFIXES | {".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2"}
_FORMAT_OF_SUFFIX = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    ".png": "PNG",
    ".webp": "WEBP",
    ".bmp": "BMP",
}
_HEIC_CURE = "convert it to JPEG or TIFF first: heif-convert of libheif does, or sips on a Mac"
_RAW_CURE = "develop it to TIFF or JPEG first: darktable-cli, RawTherapee or dcraw -T do"
_OTHER_CURE = "convert it to PNG or JPEG first: ImageMagick does"
# Offset and pattern of a file's first bytes, what it is, and what to do with it.
_SIGNATURES = (
    (4, rb"ftyp(avif|avis)", "AVIF", _HEIC_CURE),
    (4, rb"ftyp(hei|hev|mif1|msf1)", "HEIC", _HEIC_CURE),
    (4, rb"ftypcrx", "camera raw (CR3)", _RAW_CURE),
    (0, rb"GIF8", "GIF", _OTHER_CURE),
    (0, rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "JPEG XL", _OTHER_CURE),
    (0, rb"\x00\x00\x00\x0cjP  ", "JPEG 2000", _OTHER_CURE),
    (0, rb"\s*(<\?xml|<svg)", "SVG or XML", _OTHER_CURE),
    (0, rb"%PDF", "PDF", _OTHER_CURE),
)


def unsupported_kind(path: Path, data: bytes) -> tuple[str, str] | None:
    """What a file is, and what to do with it, if it is known and not supported."""
    # Many raw files are TIFF inside: by content they would pass for their own thumbnail.
    if path.suffix.lower() in RAW_SUFFIXES:
        return f"camera raw ({path.suffix})", _RAW_CURE
    for offset, pattern, kind, cure in _SIGNATURES:
        if re.match(pattern, data[offset : offset + 32]):
            return kind, cure
    return None


def format_of(path: Path) -> str:
    try:
        return _FORMAT_OF_SUFFIX[path.suffix.lower()]
    except KeyError:
        raise PhotoError(
            path,
            f"has no photo's suffix ({path.suffix!r})",
            f"use one of {', '.join(sorted(_FORMAT_OF_SUFFIX))}",
        ) from None


def notes_on_name(path: Path, file_format: str) -> list[str]:
    expected = _FORMAT_OF_SUFFIX.get(path.suffix.lower())
    if expected in (None, file_format):
        return []
    return [f"holds {file_format} in spite of its name, and comes back as {file_format}"]
