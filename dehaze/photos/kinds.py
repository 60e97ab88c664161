"""Kinds of files: photos by their suffix, and unsupported kinds by their content."""

from __future__ import annotations

import re
from pathlib import Path

from dehaze.photos.photo import PhotoError, UnreadableError

RAW_SUFFIXES = frozenset(
    {".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".iiq", ".kdc", ".mrw", ".nef"}
    | {".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"}
)
# Pictures of cameras that cannot be read here; they are reported as failures, never passed over.
UNSUPPORTED_SUFFIXES = RAW_SUFFIXES | {".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2"}

_FORMAT_OF_SUFFIX = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    ".png": "PNG",
    ".webp": "WEBP",
    ".bmp": "BMP",
}
PHOTO_SUFFIXES = frozenset(_FORMAT_OF_SUFFIX)

_HEIC_CURE = "convert it to JPEG or TIFF first: heif-convert of libheif does, or sips on a Mac"
_RAW_CURE = "develop it to TIFF or JPEG first: darktable-cli, RawTherapee or dcraw -T do"
_OTHER_CURE = "convert it to PNG or JPEG first: ImageMagick does"
_FILM_CURE = "name it as the clip that it is, such as .mp4: dehaze run does clips"
# Offset and pattern of a file's first bytes, what it is, and what to do with it.
_SIGNATURES = (
    (4, rb"ftyp(avif|avis)", "AVIF", _HEIC_CURE),
    (4, rb"ftyp(hei|hev|mif1|msf1)", "HEIC", _HEIC_CURE),
    (4, rb"ftypcrx", "camera raw (CR3)", _RAW_CURE),
    (4, rb"ftyp(jp2|jpx|jpm)|\x6a\x50\x20\x20", "JPEG 2000", _OTHER_CURE),
    (4, rb"ftyp|moov|mdat", "a film (MP4 or QuickTime)", _FILM_CURE),
    (8, rb"CR\x02", "camera raw (CR2)", _RAW_CURE),
    (6, rb"HEAPCCDR", "camera raw (CRW)", _RAW_CURE),
    (0, rb"IIU\0", "camera raw (RW2)", _RAW_CURE),
    (0, rb"II(RO|RS)|MMOR", "camera raw (ORF)", _RAW_CURE),
    (0, rb"FUJIFILMCCD-RAW", "camera raw (RAF)", _RAW_CURE),
    (0, rb"\0MRM", "camera raw (MRW)", _RAW_CURE),
    (0, rb"FOVb", "camera raw (X3F)", _RAW_CURE),
    (0, rb"GIF8", "GIF", _OTHER_CURE),
    (0, rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "JPEG XL", _OTHER_CURE),
    (0, rb"\xff\x4f\xff\x51", "JPEG 2000", _OTHER_CURE),
    (0, rb"II\xbc", "JPEG XR", _OTHER_CURE),
    (0, rb"8BP[SB]", "a Photoshop file", _OTHER_CURE),
    (0, rb"\x76\x2f\x31\x01", "OpenEXR", _OTHER_CURE),
    (0, rb"#\?RA", "Radiance HDR", _OTHER_CURE),
    (0, rb"P[1-7fF]\s", "PNM", _OTHER_CURE),
    (0, rb"\x8a(MNG)|\x8b(JNG)", "MNG", _OTHER_CURE),
    (0, rb"\s*(<\?xml|<svg)", "SVG or XML", _OTHER_CURE),
    (0, rb"%PDF", "PDF", _OTHER_CURE),
)


def refuse_unsupported(path: Path, data: bytes) -> None:
    """Raises a refusal if a file is known and not supported."""
    # Many raw files are TIFF inside, and would be read as their own thumbnail.
    if path.suffix.lower() in RAW_SUFFIXES:
        raise _unsupported(f"camera raw ({path.suffix})", _RAW_CURE)
    for offset, pattern, kind, cure in _SIGNATURES:
        if re.match(pattern, data[offset : offset + 32]):
            raise _unsupported(kind, cure)


def _unsupported(kind: str, cure: str) -> UnreadableError:
    return UnreadableError(f"{kind} is not supported", cure)


def format_of(path: Path) -> str:
    """The format that a file's suffix names.

    Raises:
        PhotoError: it names none.
    """
    try:
        return _FORMAT_OF_SUFFIX[path.suffix.lower()]
    except KeyError:
        raise PhotoError(
            path,
            f"has no photo's suffix ({path.suffix!r})",
            f"use one of {', '.join(sorted(_FORMAT_OF_SUFFIX))}",
        ) from None


def suffixes_of(file_format: str) -> list[str]:
    """The suffixes that name a format."""
    return sorted(suffix for suffix, named in _FORMAT_OF_SUFFIX.items() if named == file_format)


def note_on_name(path: Path, file_format: str) -> tuple[str, ...]:
    """A note if a file's suffix names another format than its content has."""
    expected = _FORMAT_OF_SUFFIX.get(path.suffix.lower())
    if expected in (None, file_format):
        return ()
    return (f"holds {file_format} in spite of its name, and comes back as {file_format}",)
