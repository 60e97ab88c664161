"""JPEG: the segments of the source around newly coded pixels (ITU-T T.81, JFIF, EXIF)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import JpegImagePlugin

from dehaze.photos.exif import orientation_of, upright_exif
from dehaze.photos.photo import Decoded, Metadata, Samples, UnreadableError
from dehaze.photos.pillow import cmyk_to_srgb, opened, samples_of, saved
from dehaze.photos.xmp import notes_on_promises, promises_of, upright_xmp, xmp_orientation

_CONVERT = "convert it to an ordinary JPEG, PNG or TIFF first"
_START, _END, _SCAN, _COMMENT, _APP0, _APP14 = 0xD8, 0xD9, 0xDA, 0xFE, 0xE0, 0xEE
_APP1, _APP2, _APP13 = 0xE1, 0xE2, 0xED
# Frame headers: C0 to CF without C4 (Huffman tables), CC (arithmetic coding) and C8 (reserved).
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC} | {0xF7}
_KINDS = {
    **dict.fromkeys((0xC3, 0xCB), "lossless"),
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "hierarchical"),
    0xF7: "JPEG-LS",
}
# Coded data end at a marker other than a stuffed zero or a restart.
_MARKER_IN_SCAN = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")

_EXIF = b"Exif\0\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_ICC = b"ICC_PROFILE\0"
_JFIF = b"JFIF\0"
# An HDR gain map's own header (ISO 21496-1), and a table of the pictures behind the first (CIPA).
_GAIN_MAP, _PICTURES = b"urn:iso:std:iso:ts:21496:-1\0", b"MPF\0"

_NO_GAIN_MAP = "its HDR gain map is left out: the result is an ordinary photo"

# Bytes of a segment beside its marker and length; spaces before the end of an XMP packet.
_LONGEST = 0xFFFF - 2
_PADDING = re.compile(rb"\s+(?=<\?xpacket end)")

Segment = tuple[int, bytes]


@dataclass(frozen=True)
class JpegContainer:
    """Everything in a JPEG besides its pixels.

    Attributes:
        segments: marker and content of each application segment and comment that is kept.
        orientation: that the pixels were stored in.
        quantisation: tables of the channels in their order, 64 values each, or None. The last one
            is also that of the channels that follow.
        subsampling: of the chroma: 0 is 4:4:4, 1 is 4:2:2, 2 is 4:2:0.
        progressive: whether it has several scans.
        quality: 1 to 100, which replaces the tables; None for the tables, or for 95 without any.
    """

    segments: tuple[Segment, ...] = ()
    orientation: int = 1
    quantisation: Sequence[list[int]] | None = None
    subsampling: int = 0
    progressive: bool = False
    quality: int | None = None

    def encode(self, samples: Samples) -> bytes:
        """A JPEG of 8-bit grey or RGB samples."""
        quality: dict[str, Any] = {"quality": self.quality or 95}
        if self.quality is None and self.quantisation is not None:
            quality = {"qtables": list(self.quantisation)}
        coded = saved(
            samples,
            "JPEG",
            subsampling=self.subsampling,
            progressive=self.progressive,
            **quality,
        )
        if not self.segments:
            return coded
        height, width = samples.shape[:2]
        kept = _upright(self.segments, width, height, self.orientation)
        # Pillow's own JFIF segment comes first; the kept ones say all that it says.
        behind = 4 + int.from_bytes(coded[4:6], "big") if coded[3] == _APP0 else 2
        segments = [_written(marker, body) for marker, body in kept]
        return b"".join([coded[:2], *segments, memoryview(coded)[behind:]])

    @property
    def metadata(self) -> Metadata:
        """See ``Container``."""
        return Metadata(
            exif=_first_exif(self.segments) or b"",
            xmp=_xmp(self.segments) or b"",
            profile=_profile(self.segments) or b"",
            orientation=self.orientation,
            others=(
                *dict.fromkeys(filter(None, map(_other_name, self.segments))),
                *(["a second block of EXIF"] if len(_exif_blocks(self.segments)) > 1 else []),
            ),
        )

    @classmethod
    def labelled(cls, metadata: Metadata) -> JpegContainer:
        """A container with this metadata; EXIF and XMP must each fit in a segment."""
        bodies = [(_APP1, _EXIF, metadata.exif), (_APP1, _XMP, metadata.xmp)]
        share = _LONGEST - len(_ICC) - 2
        parts = [
            metadata.profile[place : place + share]
            for place in range(0, len(metadata.profile), share)
        ]
        for number, part in enumerate(parts, 1):
            bodies.append((_APP2, _ICC + bytes([number, len(parts)]), part))
        segments = tuple(
            (marker, name + body)
            for marker, name, body in bodies
            if body and len(name + body) <= _LONGEST
        )
        return cls(segments, metadata.orientation)


@dataclass(frozen=True)
class JpegSource:
    """A JPEG file, its segments read."""

    width: int
    height: int
    orientation: int
    segments: tuple[Segment, ...]
    bare: bytes = field(repr=False)
    notes: tuple[str, ...] = ()
    premultiplied = False

    def decode(self) -> Decoded:
        """The samples; see ``Source``."""
        notes = list(self.notes)
        segments = self.segments
        with opened(self.bare, "JPEG") as image:
            # Only JPEG images of Pillow have this, which its types do not tell.
            subsampling = JpegImagePlugin.get_sampling(image)
            tables = _tables(getattr(image, "quantization", {}), getattr(image, "layer", []))
            image.load()
            if image.mode == "CMYK":
                notes.append("converted from CMYK to sRGB")
                samples = cmyk_to_srgb(image, _profile(segments))
                segments = tuple(each for each in segments if not each[1].startswith(_ICC))
            else:
                samples = samples_of(image)
            container = JpegContainer(
                segments,
                self.orientation,
                tables if tables and _usable(tables) else None,
                # Pillow cannot name (-1) or write rarer subsamplings. Full chroma loses nothing.
                max(subsampling, 0),
                bool(image.info.get("progressive")),
            )
        return Decoded(samples, container, tuple(notes))


def open_jpeg(data: bytes) -> JpegSource:
    """Read the segments of a JPEG.

    Raises:
        UnreadableError: of a kind that cannot be read, or cut short.
    """
    pieces, end = _pieces(data)
    frame = next((body for marker, body in pieces if marker in _FRAMES), None)
    if frame is None or len(frame) < 10:
        raise UnreadableError("is cut short")
    kind, bits, channels = frame[1], frame[4], frame[9]
    if kind in _KINDS:
        raise UnreadableError(
            f"is a JPEG of the {_KINDS[kind]} kind, which is not supported", _CONVERT
        )
    if bits != 8:
        raise UnreadableError(f"is a JPEG of {bits} bits, where only 8 are supported", _CONVERT)
    if channels not in (1, 3, 4):
        raise UnreadableError(f"is a JPEG of {channels} channels, which is not supported", _CONVERT)

    carried = [
        (marker, piece[4:])
        for marker, piece in pieces
        if marker == _COMMENT or _APP0 <= marker <= 0xEF
    ]
    kept, notes = _kept(carried, data[end:])
    needed = [
        piece
        for marker, piece in pieces
        if not (marker == _COMMENT or _APP0 <= marker <= 0xEF)
        or piece[4:].startswith((_JFIF, b"Adobe"))
    ]
    exif, xmp = _first_exif(kept), _xmp(kept)
    orientation = orientation_of(exif) if exif is not None else None
    if orientation is None and xmp is not None:
        orientation = xmp_orientation(xmp)
    return JpegSource(
        width=int.from_bytes(frame[7:9], "big"),
        height=int.from_bytes(frame[5:7], "big"),
        orientation=orientation or 1,
        segments=tuple(kept),
        bare=b"".join([b"\xff\xd8", *needed]),
        notes=tuple(notes),
    )


def _pieces(data: bytes) -> tuple[list[Segment], int]:
    """All pieces between the start and the end of the picture, and where the picture ends.

    A piece is a segment with its marker and length; a scan's has its coded data, too.
    """
    pieces: list[Segment] = []
    place = 2
    while True:
        place = data.find(b"\xff", place)
        while 0 <= place < len(data) - 1 and data[place + 1] == 0xFF:
            place += 1
        marker = data[place + 1] if 0 <= place < len(data) - 1 else None
        if marker == _END:
            pieces.append((_END, data[place : place + 2]))
            return pieces, place + 2
        if marker is None or place + 4 > len(data):
            # The end marker may be missing; the decoder finds out whether data are, too.
            return pieces, len(data)
        if marker in (0x00, 0x01, _START) or 0xD0 <= marker <= 0xD7:
            place += 2
            continue
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == _SCAN:
            found = _MARKER_IN_SCAN.search(data, end)
            end = found.start() if found else len(data)
        pieces.append((marker, data[place:end]))
        place = end


def _kept(segments: Sequence[Segment], behind: bytes) -> tuple[list[Segment], list[str]]:
    """The segments that stay true beside new pixels, and notes about the others."""
    kept: list[Segment] = []
    lost: dict[str, None] = {}
    pictures = False
    for marker, body in segments:
        if body.startswith(_GAIN_MAP):
            lost[_NO_GAIN_MAP] = None
        elif marker == _APP2 and body.startswith(_PICTURES):
            pictures = True
        elif marker == 0xEB and b"c2pa" in body:
            lost["its content credentials (C2PA) are left out: they vouch for other pixels"] = None
        elif marker == 0xEB:
            lost["its HDR layer (APP11) is left out"] = None
        elif marker == _APP14 and body.startswith(b"Adobe"):
            # How the source coded its colours.
            continue
        elif marker == _APP0 and body.startswith(b"JFXX\0"):
            # A thumbnail.
            continue
        else:
            kept.append((marker, body))
    xmp = _xmp(kept)
    promises = promises_of(xmp) if xmp is not None else frozenset()
    if any("gain-map" in each or "GainMap" in each for each in promises):
        lost[_NO_GAIN_MAP] = None
    further, behind = _pictures_behind(behind)
    # A gain map is a picture behind the photo.
    if further > 1 or (_NO_GAIN_MAP not in lost and (pictures or further)):
        lost["the further pictures behind it are left out"] = None
    film = re.search(rb"ftyp(isom|iso\d|mp4|qt  |avc1|MSNV|hvc1)|MotionPhoto_Data", behind)
    if film or any("/camera/" in each for each in promises):
        lost["its film (motion photo) is left out"] = None
    elif behind:
        lost[f"{len(behind)} bytes behind its end are left out"] = None
    if xmp is not None and not lost:
        lost |= dict.fromkeys(notes_on_promises(xmp))
    return kept, list(lost)


def _pictures_behind(data: bytes) -> tuple[int, bytes]:
    """How many JPEGs the data begin with, and what follows them; zeros around them are padding."""
    count = 0
    data = data.strip(b"\0")
    while data.startswith(b"\xff\xd8\xff"):
        count += 1
        data = data[_pieces(data)[1] :].strip(b"\0")
    return count, data


def _upright(
    segments: Sequence[Segment], width: int, height: int, orientation: int
) -> list[Segment]:
    """The segments of a photo of this size, turned upright."""
    patched = b"".join(
        upright_exif(block, width=width, height=height, orientation=orientation)
        for block in _exif_blocks(segments)
    )
    result: list[Segment] = []
    place = 0
    for marker, body in segments:
        if _is_exif(marker, body):
            length = len(body) - len(_EXIF)
            body = _EXIF + patched[place : place + length]
            place += length
        elif marker == _APP1 and body.startswith(_XMP):
            packet = upright_xmp(body[len(_XMP) :], width=width, height=height)
            if len(_XMP + packet) > _LONGEST:
                # Larger numbers take more digits, which use up the packet's padding.
                packet = _PADDING.sub(b"\n", packet)
            body = _XMP + packet if len(_XMP + packet) <= _LONGEST else body
        elif marker == _APP0 and body.startswith(_JFIF) and len(body) >= 14:
            # Without the thumbnail behind the two zeros, and with the densities turned as well.
            across, down = body[8:10], body[10:12]
            density = down + across if orientation >= 5 else across + down
            body = body[:8] + density + b"\0\0"
        result.append((marker, body))
    return result


def _is_exif(marker: int, body: bytes) -> bool:
    return marker == _APP1 and body.startswith(_EXIF)


def _exif_blocks(segments: Sequence[Segment]) -> list[bytes]:
    """Each block of EXIF, whole; one that is longer than a segment continues in the next."""
    blocks: list[bytes] = []
    for body in (body[len(_EXIF) :] for marker, body in segments if _is_exif(marker, body)):
        if blocks and not body.startswith((b"II*\0", b"MM\0*")):
            blocks[-1] += body
        else:
            blocks.append(body)
    return blocks


def _first_exif(segments: Sequence[Segment]) -> bytes | None:
    return next(iter(_exif_blocks(segments)), None)


def _xmp(segments: Sequence[Segment]) -> bytes | None:
    for marker, body in segments:
        if marker == _APP1 and body.startswith(_XMP):
            return body[len(_XMP) :]
    return None


def _profile(segments: Sequence[Segment]) -> bytes | None:
    """The colour profile, whose parts are numbered from 1 in the byte behind the name."""
    parts = sorted(
        (body[len(_ICC)], body[len(_ICC) + 2 :])
        for marker, body in segments
        if marker == _APP2 and body.startswith(_ICC) and len(body) > len(_ICC) + 2
    )
    return b"".join(body for _, body in parts) or None


def _other_name(segment: Segment) -> str | None:
    """The name of a segment that other formats have no place for; None for all others.

    JFIF's print density stands in EXIF as well.
    """
    marker, body = segment
    if body.startswith((_EXIF, _XMP, _ICC, _JFIF)):
        return None
    if marker == _COMMENT:
        return "comments"
    if marker == _APP13 and body.startswith(b"Photoshop 3.0\0"):
        return "IPTC and Photoshop's own"
    if body.startswith(b"http://ns.adobe.com/xmp/extension/"):
        return "extended XMP"
    return f"APP{marker - _APP0}"


def _tables(
    tables: Mapping[int, list[int]], layers: Sequence[tuple[int, int, int, int]]
) -> list[list[int]]:
    """The quantisation tables of up to three channels, the last without repetition.

    Args:
        tables: by their numbers.
        layers: of each channel its name, its two samplings and the number of its table.
    """
    numbers = [number for *_, number in layers[:3] if number in tables]
    while len(numbers) > 1 and numbers[-1] == numbers[-2]:
        numbers.pop()
    return [tables[number] for number in numbers]


def _usable(tables: Sequence[list[int]]) -> bool:
    """Whether a coder can use the quantisation tables; those of a damaged file may not fit."""
    return all(
        len(values) == 64 and all(1 <= value <= 0xFFFF for value in values) for values in tables
    )


def _written(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body
