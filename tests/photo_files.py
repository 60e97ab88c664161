"""Photos with metadata of every kind, built byte by byte, and an independent reader of them.

Nothing here comes from the library, so that it cannot share the library's mistakes.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, ImageCms

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
TEXT = "Hütte am Großglockner — 北京 霧".encode() + b"\0"
# Maker notes of 200 bytes that point at places in the whole block, as Canon's do.
MAKER_NOTE = bytes((7 * index) % 256 for index in range(200))
OLYMPUS_WITHIN, OLYMPUS_ELSEWHERE = b"SR951, firmware 42\0", b"OLYMPUS DIGITAL CAMERA elsewhere\0"
IPTC = b"\x1c\x02\x00\x00\x02\x00\x04" + b"\x1c\x02\x78\x00\x14" + b"Fog over the harbour"
PHOTOSHOP = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC + b"\0"
COMMENT = "Scanned by Jürgen, box 7".encode()

ASCII, SHORT, LONG, RATIONAL, UNDEFINED = 2, 3, 4, 5, 7
LETTERS = {1: "B", 3: "H", 4: "I", 5: "I", 16: "Q"}
Tag = tuple[int, int, int, bytes]


def xmp_packet(*, orientation: int, width: int, height: int, extra: str = "") -> bytes:
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"'
        ' xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"'
        f' tiff:Orientation="{orientation}" dc:title="霧 &lt;moor&gt;">'
        f"<exif:PixelXDimension>{width}</exif:PixelXDimension>"
        f"<exif:PixelYDimension>{height}</exif:PixelYDimension>{extra}"
        f'</rdf:Description></rdf:RDF></x:xmpmeta>{" " * 50}<?xpacket end="w"?>'
    ).encode()


class Tree:
    """Builds TIFF directories of either byte order, classic or BigTIFF."""

    def __init__(self, order: str = "<", *, big: bool = False) -> None:
        self.order, self.big = order, big
        self.data = bytearray(16 if big else 8)

    def put(self, data: bytes) -> int:
        """Data at the next even place; returns where."""
        self.data += bytes(len(self.data) % 2)
        place = len(self.data)
        self.data += data
        return place

    def tag(self, tag: int, kind: int, *numbers: int) -> Tag:
        data = struct.pack(f"{self.order}{len(numbers)}{LETTERS[kind]}", *numbers)
        return tag, kind, len(numbers) // (2 if kind == RATIONAL else 1), data

    def directory(self, tags: Sequence[Tag], *, following: int = 0) -> int:
        inline, offset = (8, "Q") if self.big else (4, "I")
        entries = b""
        for tag, kind, count, data in sorted(tags):
            entries += struct.pack(f"{self.order}HH{offset}", tag, kind, count)
            if len(data) > inline:
                data = struct.pack(self.order + offset, self.put(data))
            entries += data.ljust(inline, b"\0")
        counted = struct.pack(self.order + ("Q" if self.big else "H"), len(tags))
        return self.put(counted + entries + struct.pack(self.order + offset, following))

    def finished(self, first: int) -> bytes:
        mark = b"II" if self.order == "<" else b"MM"
        if self.big:
            header = mark + struct.pack(f"{self.order}HHHQ", 43, 8, 0, first)
        else:
            header = mark + struct.pack(f"{self.order}HI", 42, first)
        self.data[: len(header)] = header
        return bytes(self.data)

    def details(self, width: int, height: int, more: Sequence[Tag] = ()) -> list[Tag]:
        """Pointers to directories of EXIF, with more tags in it, GPS and Interoperability."""
        interoperability = self.directory([(1, ASCII, 4, b"R98\0"), (2, UNDEFINED, 4, b"0100")])
        exif = self.directory(
            [
                (0x9003, ASCII, 20, b"2024:11:02 07:31:00\0"),
                (0x927C, UNDEFINED, len(MAKER_NOTE), MAKER_NOTE),
                (0x9286, UNDEFINED, 8 + len(TEXT), b"UNICODE\0" + TEXT),
                self.tag(0xA002, LONG, width),
                self.tag(0xA003, LONG, height),
                self.tag(0xA005, LONG, interoperability),
                *more,
            ]
        )
        gps = self.directory(
            [
                (1, ASCII, 2, b"N\0"),
                self.tag(2, RATIONAL, 54, 1, 27, 1, 16, 1),
            ]
        )
        return [self.tag(0x8769, LONG, exif), self.tag(0x8825, LONG, gps)]


def exif_block(
    order: str = "<", *, orientation: int = 1, width: int, height: int, thumbnail: bool = False
) -> bytes:
    """EXIF with all its directories, one tag that is broken, and a thumbnail's directory.

    Args:
        order: of the bytes.
        orientation: that it states.
        width: that it states.
        height: that it states.
        thumbnail: the first directory leads to that of the thumbnail.
    """
    tree = Tree(order)
    jpeg = tree.put(b"\xff\xd8 a thumbnail \xff\xd9")
    second = tree.directory([tree.tag(513, LONG, jpeg), tree.tag(514, LONG, 17)])
    first = tree.directory(
        [
            (0x010E, ASCII, len(TEXT), TEXT),
            tree.tag(0x0112, SHORT, orientation),
            tree.tag(0x011A, RATIONAL, 300, 1),
            tree.tag(0x011B, RATIONAL, 300, 1),
            (0x9C9B, 1, 12, "Hütte\0".encode("utf-16-le")),
            # A type that nobody knows.
            (0xC4A5, 99, 3, b"bad"),
            *tree.details(width, height),
        ],
        following=second if thumbnail else 0,
    )
    return tree.finished(first)


@dataclass(frozen=True)
class Labels:
    """The metadata to put into a file."""

    exif: bytes | None = None
    xmp: bytes | None = None
    profile: bytes | None = None


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def jpeg_file(
    samples: np.ndarray, labels: Labels, *others: bytes, behind: bytes = b"", **options: Any
) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(samples.squeeze()).save(buffer, "JPEG", **{"quality": 95} | options)
    coded = buffer.getvalue()
    segments = list(others)
    if labels.exif is not None:
        segments.append(segment(0xE1, b"Exif\0\0" + labels.exif))
    if labels.xmp is not None:
        segments.append(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + labels.xmp))
    if labels.profile is not None:
        segments.append(segment(0xE2, b"ICC_PROFILE\0\x01\x01" + labels.profile))
    # Behind the JFIF segment of 18 bytes that Pillow writes.
    return coded[:20] + b"".join(segments) + coded[20:] + behind


def jpeg_segments(data: bytes) -> list[tuple[int, bytes]]:
    """Application segments and comments of a JPEG, in their order."""
    found, place = [], 2
    while data[place + 1] != 0xDA:
        length = struct.unpack(">H", data[place + 2 : place + 4])[0]
        if 0xE0 <= data[place + 1] <= 0xEF or data[place + 1] == 0xFE:
            found.append((data[place + 1], data[place + 4 : place + 2 + length]))
        place += 2 + length
    return found


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_file(
    samples: np.ndarray,
    labels: Labels,
    *others: tuple[bytes, bytes],
    after: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    coded = imagecodecs.png_encode(samples.squeeze(axis=2) if samples.shape[2] == 1 else samples)
    chunks = list(others)
    if labels.profile is not None:
        chunks.append((b"iCCP", b"name\0\0" + zlib.compress(labels.profile)))
    if labels.exif is not None:
        chunks.append((b"eXIf", labels.exif))
    if labels.xmp is not None:
        chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + labels.xmp))
    # Behind the header, of 8 and 25 bytes, and before the end, of 12.
    before = b"".join(chunk(*each) for each in chunks)
    return coded[:33] + before + coded[33:-12] + b"".join(chunk(*a) for a in after) + coded[-12:]


def png_by_hand(
    header: tuple[int, int, int, int], rows: Sequence[bytes], *others: tuple[bytes, bytes]
) -> bytes:
    """A PNG of stored rows; the header is width, height, bits and colour type."""
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0)), *others]
    chunks += [(b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Name and content of each chunk."""
    found, place = [], 8
    while place < len(data):
        length = struct.unpack(">I", data[place : place + 4])[0]
        found.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    return found


def webp_file(samples: np.ndarray, labels: Labels) -> bytes:
    buffer = io.BytesIO()
    named = {"exif": labels.exif, "xmp": labels.xmp, "icc_profile": labels.profile}
    given = {name: value for name, value in named.items() if value is not None}
    Image.fromarray(samples).save(buffer, "WEBP", lossless=True, exact=True, **given)
    return buffer.getvalue()


@dataclass(frozen=True)
class TiffKind:
    """How the samples of a TIFF lie."""

    order: str = "<"
    big: bool = False
    planar: bool = False
    compression: str | None = None
    tile: tuple[int, int] | None = None
    extra: int = 2
    photometric: str | None = None


def tiff_file(
    samples: np.ndarray, kind: TiffKind, tags: Sequence[tuple[int, int, int, Any]] = ()
) -> bytes:
    """A TIFF written by tifffile, of samples (H, W, C)."""
    channels = samples.shape[2]
    stored = samples[..., 0] if channels == 1 else samples
    if kind.planar and channels > 1:
        stored = np.moveaxis(samples, 2, 0)
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        stored,
        photometric=kind.photometric or ("minisblack" if channels < 3 else "rgb"),
        planarconfig=None if channels == 1 else "separate" if kind.planar else "contig",
        extrasamples=None if channels in (1, 3) else [kind.extra, 0, 0][: 1 + max(0, channels - 4)],
        compression=kind.compression,
        predictor=kind.compression in ("lzw", "deflate", "zstd"),
        tile=kind.tile,
        rowsperstrip=None if kind.tile else 5,
        byteorder=kind.order,
        bigtiff=kind.big,
        metadata=None,
        software=False,
        extratags=[(*tag, True) for tag in tags],
    )
    return buffer.getvalue()


def olympus_tiff(samples: np.ndarray, *, order: str = "<", among_pixels: bool = False) -> bytes:
    """A TIFF with an Olympus maker note, one of whose values lies in it and one elsewhere.

    The offsets of the note count from the file's header.

    Args:
        samples: (H, W, 3), 8 bits.
        order: of the bytes.
        among_pixels: the other value lies among the pixels, as where a program moved the note.
    """
    height, width, channels = samples.shape
    tree = Tree(order)
    strip = tree.put(samples.tobytes())
    elsewhere = strip + 7 if among_pixels else tree.put(OLYMPUS_ELSEWHERE)
    # The note comes next, at an even place: its header, its directory of 2 tags, and a value.
    start = len(tree.data) + len(tree.data) % 2
    entries = struct.pack(f"{order}HHII", 0x0207, ASCII, len(OLYMPUS_WITHIN), start + 8 + 30)
    entries += struct.pack(f"{order}HHII", 0x0209, UNDEFINED, len(OLYMPUS_ELSEWHERE), elsewhere)
    note = b"OLYMP\0\1\0" + struct.pack(f"{order}H", 2) + entries + bytes(4) + OLYMPUS_WITHIN
    exif = tree.directory([(0x927C, UNDEFINED, len(note), note)])
    tags = [
        tree.tag(256, LONG, width),
        tree.tag(257, LONG, height),
        tree.tag(258, SHORT, *[8] * channels),
        tree.tag(259, SHORT, 1),
        tree.tag(262, SHORT, 2),
        tree.tag(273, LONG, strip),
        tree.tag(277, SHORT, channels),
        tree.tag(278, LONG, height),
        tree.tag(279, LONG, samples.size),
        tree.tag(0x8769, LONG, exif),
    ]
    return tree.finished(tree.directory(tags))


def labelled_tiff(
    samples: np.ndarray,
    labels: Labels,
    *,
    orientation: int,
    order: str = "<",
    big: bool = False,
    others: Sequence[Tag] = (),
    details: Sequence[Tag] = (),
) -> bytes:
    """An uncompressed TIFF whose further directories lie behind its pixels.

    Args:
        samples: (H, W, C).
        labels: the metadata; its EXIF is not used.
        orientation: that it states.
        order: of the bytes.
        big: BigTIFF.
        others: more tags of its first directory.
        details: more tags of its EXIF directory.
    """
    height, width, channels = samples.shape
    tree = Tree(order, big=big)
    stored = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    strip = tree.put(stored)
    tags = [
        tree.tag(256, LONG, width),
        tree.tag(257, LONG, height),
        tree.tag(258, SHORT, *[samples.dtype.itemsize * 8] * channels),
        tree.tag(259, SHORT, 1),
        tree.tag(262, SHORT, 1 if channels < 3 else 2),
        (0x010E, ASCII, len(TEXT), TEXT),
        tree.tag(273, LONG, strip),
        tree.tag(0x0112, SHORT, orientation),
        tree.tag(277, SHORT, channels),
        tree.tag(278, LONG, height),
        tree.tag(279, LONG, len(stored)),
        tree.tag(318, RATIONAL, 3127, 10000, 3290, 10000),
        (33723, UNDEFINED, len(IPTC), IPTC),
        *([tree.tag(338, SHORT, 2)] if channels in (2, 4) else []),
        *([(700, 1, len(labels.xmp), labels.xmp)] if labels.xmp is not None else []),
        *([(34675, UNDEFINED, len(PROFILE), labels.profile)] if labels.profile else []),
        *tree.details(width, height, details),
        *others,
    ]
    return tree.finished(tree.directory(tags))


@dataclass
class Found:
    """What an independent reader finds in a TIFF: values by tag, of each directory."""

    first: Mapping[int, bytes]
    exif: Mapping[int, bytes]
    gps: Mapping[int, bytes]
    interoperability: Mapping[int, bytes]
    places: Mapping[int, int] = field(default_factory=dict)


def tiff_tags(data: bytes) -> Found:
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    big = struct.unpack(f"{order}H", data[2:4])[0] == 43
    counter, offset, inline = ("Q", "Q", 8) if big else ("H", "I", 4)
    sizes = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 16: 8}

    def unpack(letter: str, place: int) -> int:
        return int(struct.unpack_from(order + letter, data, place)[0])

    def directory(place: int) -> tuple[dict[int, bytes], dict[int, int]]:
        values, places = {}, {}
        start = place + struct.calcsize(counter)
        for entry in range(
            start, start + unpack(counter, place) * (4 + 2 * inline), 4 + 2 * inline
        ):
            kind, count = unpack("H", entry + 2), unpack(offset, entry + 4)
            where, length = entry + 4 + inline, count * sizes[kind]
            if length > inline:
                where = unpack(offset, where)
            values[unpack("H", entry)] = data[where : where + length]
            places[unpack("H", entry)] = where
        return values, places

    def below(pointer: bytes | None) -> tuple[dict[int, bytes], dict[int, int]]:
        return ({}, {}) if pointer is None else directory(struct.unpack(f"{order}I", pointer)[0])

    first, _ = directory(unpack(offset, 8 if big else 4))
    exif, places = below(first.get(0x8769))
    return Found(first, exif, below(first.get(0x8825))[0], below(exif.get(0xA005))[0], places)
