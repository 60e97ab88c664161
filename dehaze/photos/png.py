"""PNG: the chunks of the source around newly coded pixels (PNG specification, third edition)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import imagecodecs
import numpy as np

from dehaze.photos.exif import orientation_of, upright_exif
from dehaze.photos.photo import Decoded, Metadata, Samples, UnreadableError
from dehaze.photos.pillow import check_samples, samples_in
from dehaze.photos.xmp import notes_on_promises, upright_xmp, xmp_orientation

SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Chunks of the coded pixels, or that the reader converts.
_OF_THE_PIXELS = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"hIST", b"iDOT"}
_OF_THE_PIXELS |= {b"acTL", b"fcTL", b"fdAT"}
# Chunks that stay true beside new pixels, although their 4th letter does not say so.
_KEPT = {b"cICP", b"mDCV", b"cLLI", b"mDCv", b"cLLi", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT"}
_KEPT |= {b"bKGD", b"tIME", b"sCAL"}
# Chunks that can be left out without a note.
_NOT_MISSED = {b"sRGB", b"pHYs", b"sBIT", b"bKGD", b"tIME"}
_LOST = {
    b"caBX": "its content credentials (C2PA) are left out: they vouch for other pixels",
    b"gdAT": "its HDR gain map is left out: the result is an ordinary photo",
    b"gmAP": "its HDR gain map is left out: the result is an ordinary photo",
}
_XMP = b"XML:com.adobe.xmp"
_RAW_EXIF = (b"Raw profile type exif", b"Raw profile type APP1")
_RAW_XMP = (b"Raw profile type xmp",)
_EXIF = b"Exif\0\0"
_LONGEST_TEXT = 64 * 2**20
_LIBDEFLATE_LEVEL = 6
# Every fifth row and column of a 16-bit photo is compared with a second decoder.
_EVERY = 5
# Transfer functions of cICP (ITU-T H.273) that equal sRGB's or are close to it.
_LIKE_SRGB = {1, 2, 4, 5, 6, 13, 14, 15}

Chunk = tuple[bytes, bytes]


@dataclass(frozen=True)
class PngContainer:
    """Everything in a PNG besides its pixels.

    Attributes:
        before: name and content of each kept chunk that came before the pixels.
        after: likewise of those that came after.
        orientation: that the pixels were stored in.
    """

    before: tuple[Chunk, ...] = ()
    after: tuple[Chunk, ...] = ()
    orientation: int = 1

    def encode(self, samples: Samples) -> bytes:
        """A PNG of 8 or 16-bit samples: grey, grey and alpha, RGB or RGBA."""
        height, width, channels = samples.shape
        bits = samples.dtype.itemsize * 8
        colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
        header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
        chunks = [
            (b"IHDR", header),
            *(self._upright(chunk, width, height) for chunk in self.before),
            (b"IDAT", bytes(imagecodecs.deflate_encode(_filtered(samples), _LIBDEFLATE_LEVEL))),
            *(self._upright(chunk, width, height) for chunk in self.after),
            (b"IEND", b""),
        ]
        return SIGNATURE + b"".join(map(_written, chunks))

    @property
    def metadata(self) -> Metadata:
        """See ``Container``."""
        chunks = [*self.before, *self.after]
        exif = profile = b""
        others: dict[str, None] = {}
        for name, body in chunks:
            raw = body.removeprefix(_EXIF) if name == b"eXIf" else _raw_exif((name, body))
            if raw is not None:
                exif = exif or raw
            elif _is_xmp((name, body)) or _raw_xmp((name, body)) is not None:
                continue
            elif name == b"iCCP":
                # Its name, a zero, the method of compression, and the compressed profile.
                profile = _inflated(body.partition(b"\0")[2][1:])
                others |= {} if profile else {"iCCP": None}
            elif name not in _NOT_MISSED:
                others[name.decode()] = None
        colours = {b"iCCP", b"sRGB"} & dict(chunks).keys()
        if colours:
            # iCCP and sRGB say what gAMA and cHRM say, and readers prefer them.
            others = {name: None for name in others if name not in ("gAMA", "cHRM")}
        return Metadata(exif, _xmp(chunks), profile, self.orientation, tuple(others))

    @classmethod
    def labelled(cls, metadata: Metadata) -> PngContainer:
        """A container with this metadata."""
        profile = b"ICC profile\0\0" + zlib.compress(metadata.profile)
        xmp = _XMP + b"\0\0\0\0\0" + metadata.xmp
        chunks = (
            (b"iCCP", profile, metadata.profile),
            (b"eXIf", metadata.exif, metadata.exif),
            (b"iTXt", xmp, metadata.xmp),
        )
        before = tuple((name, body) for name, body, content in chunks if content)
        return cls(before, orientation=metadata.orientation)

    def _upright(self, chunk: Chunk, width: int, height: int) -> Chunk:
        """A chunk of a photo of this size, turned upright."""
        name, body = chunk
        if name == b"eXIf":
            # Some writers begin it as a JPEG's segment does, and readers pass over that.
            prefix = _EXIF if body.startswith(_EXIF) else b""
            return name, prefix + upright_exif(
                body.removeprefix(_EXIF), width=width, height=height, orientation=self.orientation
            )
        if name == b"pHYs" and self.orientation >= 5 and len(body) == 9:
            return name, body[4:8] + body[:4] + body[8:]
        if name == b"sCAL" and self.orientation >= 5:
            # The unit, the width of a pixel, a zero, and its height.
            width_of_pixel, zero, height_of_pixel = body[1:].partition(b"\0")
            return name, body[:1] + height_of_pixel + zero + width_of_pixel
        if _is_xmp(chunk):
            packet = _international_text(body)
            upright = upright_xmp(packet, width=width, height=height)
            # Kept as it is, compressed or not, where nothing in it is wrong.
            return chunk if upright == packet else (name, _XMP + b"\0\0\0\0\0" + upright)
        raw = _raw_exif(chunk)
        if raw is not None:
            upright = upright_exif(raw, width=width, height=height, orientation=self.orientation)
            return chunk if upright == raw else _as_raw(chunk, "exif", _EXIF + upright)
        raw = _raw_xmp(chunk)
        if raw is not None:
            upright = upright_xmp(raw, width=width, height=height)
            return chunk if upright == raw else _as_raw(chunk, "xmp", upright)
        return chunk


@dataclass(frozen=True)
class PngSource:
    """A PNG file, its chunks read."""

    width: int
    height: int
    bits: int
    colour_type: int
    bare: bytes = field(repr=False)
    container: PngContainer
    transparency: bytes | None
    notes: tuple[str, ...] = ()
    premultiplied = False

    @property
    def orientation(self) -> int:
        """1 to 8, as EXIF numbers them."""
        return self.container.orientation

    def decode(self) -> Decoded:
        """The samples; see ``Source``."""
        samples = samples_in(self.bare, "PNG")
        if self.bits == 16:
            # Pillow gives grey with alpha as four channels.
            seen = samples[..., [0, 3]] if self.colour_type == 4 else samples
            samples = np.atleast_3d(imagecodecs.png_decode(self.bare))
            check_samples(samples[::_EVERY, ::_EVERY], seen[::_EVERY, ::_EVERY])
        if self.transparency is not None and self.colour_type in (0, 2):
            samples = _with_colour_key(samples, self.transparency, self.bits)
        container = replace(
            self.container,
            before=tuple(self._fitting(chunk, samples.shape[2]) for chunk in self.container.before),
        )
        return Decoded(samples, container, self.notes)

    def _fitting(self, chunk: Chunk, channels: int) -> Chunk:
        """A chunk whose length depends on the kind of colour, for as many channels."""
        name, body = chunk
        if name == b"sBIT" and channels == len(body) + 1:
            return name, body + bytes([self.bits if self.colour_type != 3 else 8])
        if name == b"bKGD" and self.colour_type == 0 and self.bits < 8 and len(body) == 2:
            level = int.from_bytes(body, "big") * 255 // (2**self.bits - 1)
            return name, level.to_bytes(2, "big")
        return chunk


def open_png(data: bytes) -> PngSource:
    """Read the chunks of a PNG.

    Raises:
        UnreadableError: of a kind that cannot be read, or cut short.
    """
    chunks, wholes, end = _chunks(data)
    chunks, wholes, unheeded = _heeded(chunks, wholes)
    _refuse_kind(chunks)
    width, height, bits, colour_type = struct.unpack(">IIBB", chunks[0][1][:10])
    found = dict(chunks)
    before, after, lost = _kept(chunks, colour_type)
    if data[end:].strip(b"\0"):
        lost.append(f"{len(data) - end} bytes behind its end are left out")
    lost += notes_on_promises(_xmp([*before, *after]))
    # A palette has its own transparency. A colour key is applied here, at full depth.
    needed = {b"IHDR", b"PLTE", b"IDAT", b"IEND"} | ({b"tRNS"} if colour_type == 3 else set())
    return PngSource(
        width,
        height,
        bits,
        colour_type,
        bare=SIGNATURE
        + b"".join(
            whole for (name, _), whole in zip(chunks, wholes, strict=True) if name in needed
        ),
        container=PngContainer(before, after, _orientation([*before, *after])),
        transparency=found.get(b"tRNS"),
        notes=tuple(dict.fromkeys([*unheeded, *lost, *_notes_on_colour(found)])),
    )


def _refuse_kind(chunks: Sequence[Chunk]) -> None:
    """Raises ``UnreadableError`` for a kind of PNG that cannot be read."""
    first = chunks[0][0] if chunks else b""
    if first == b"CgBI":
        raise UnreadableError(
            "is a PNG for Apple's devices (CgBI), which is not supported",
            "convert it first: pngcrush -revert-iphone-optimizations does",
        )
    if first != b"IHDR" or len(chunks[0][1]) != 13:
        raise UnreadableError("is cut short")
    frames = int.from_bytes(dict(chunks).get(b"acTL", b"")[:4], "big")
    if frames > 1:
        raise UnreadableError(
            f"is an animation of {frames} frames", "save its frames as photos first"
        )
    unknown = [name for name, _ in chunks if name not in _OF_THE_PIXELS and not name[0] & 0x20]
    if unknown:
        raise UnreadableError(
            f"is a PNG with a chunk that is not supported ({unknown[0].decode()})",
            "save it anew as PNG",
        )


def _kept(
    chunks: Sequence[Chunk], colour_type: int
) -> tuple[tuple[Chunk, ...], tuple[Chunk, ...], list[str]]:
    """The chunks that stay true beside new pixels, and notes about the others.

    Returns:
        those before the pixels, those behind them, and the notes.
    """
    before: list[Chunk] = []
    after: list[Chunk] = []
    notes: list[str] = []
    palette = dict(chunks).get(b"PLTE", b"")
    kept = before
    for name, body in chunks:
        if name == b"IDAT":
            kept = after
        if name in _OF_THE_PIXELS:
            continue
        # By the specification, a chunk with a small fourth letter is safe to copy to other pixels.
        if name not in _KEPT and not name[3] & 0x20:
            what = f"its chunk {name.decode()}, which belongs to the old pixels, is left out"
            notes.append(_LOST.get(name, what))
            continue
        if name == b"bKGD" and colour_type == 3:
            body = _palette_background(body, palette)
            if not body:
                continue
        kept.append((name, body))
    return tuple(before), tuple(after), notes


def _chunks(data: bytes) -> tuple[list[Chunk], list[memoryview], int]:
    """Name and content of each chunk, each whole with length and checksum, and where they end.

    The content of pixel chunks is left empty: it is large and not used.
    """
    chunks: list[Chunk] = []
    wholes: list[memoryview] = []
    view = memoryview(data)
    place = len(SIGNATURE)
    while place + 8 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        name = data[place + 4 : place + 8]
        if not name.isalpha():
            break
        end = place + 12 + length
        chunks.append((name, b"" if name == b"IDAT" else data[place + 8 : end - 4]))
        # With its own checksum, which the decoder compares.
        wholes.append(view[place:end])
        place = end
        if name == b"IEND":
            break
    return chunks, wholes, place


def _heeded(
    chunks: Sequence[Chunk], wholes: Sequence[memoryview]
) -> tuple[list[Chunk], list[memoryview], list[str]]:
    """The chunks that readers use, as ``_chunks`` gives them, and a note of each other one.

    Readers ignore an ancillary chunk with a wrong checksum, and a colour key after the pixels or
    after another one. Written anew, it would be used.
    """
    notes: list[str] = []
    kept: list[tuple[Chunk, memoryview]] = []
    passed: set[bytes] = set()
    for chunk, whole in zip(chunks, wholes, strict=True):
        name = chunk[0]
        if name[0] & 0x20 and int.from_bytes(whole[-4:], "big") != zlib.crc32(whole[4:-4]):
            notes.append(f"its chunk {name.decode()} is damaged and left out")
        elif name == b"tRNS" and not passed.isdisjoint({b"IDAT", b"tRNS"}):
            notes.append("its chunk tRNS stands where readers pass over it, and is left out")
        else:
            kept.append((chunk, whole))
            passed.add(name)
    return [chunk for chunk, _ in kept], [whole for _, whole in kept], notes


def _orientation(chunks: Sequence[Chunk]) -> int:
    """As EXIF states it, in its own chunk or in a text, or else XMP."""
    raws = [raw for chunk in chunks if (raw := _raw_exif(chunk)) is not None]
    own = [body.removeprefix(_EXIF) for name, body in chunks if name == b"eXIf"]
    for exif in [*own, *raws]:
        orientation = orientation_of(exif)
        if orientation is not None:
            return orientation
    return xmp_orientation(_xmp(chunks)) or 1


def _xmp(chunks: Sequence[Chunk]) -> bytes:
    """The first XMP packet, in its own chunk or in a text; empty if there is none."""
    own = [_international_text(body) for name, body in chunks if _is_xmp((name, body))]
    raws = [raw for chunk in chunks if (raw := _raw_xmp(chunk)) is not None]
    return next(iter([*own, *raws]), b"")


def _is_xmp(chunk: Chunk) -> bool:
    return chunk[0] == b"iTXt" and chunk[1].startswith(_XMP + b"\0")


def _international_text(body: bytes) -> bytes:
    """The text of an iTXt chunk, uncompressed; empty if it is damaged."""
    parts = body.split(b"\0", 1)[-1]
    compressed, rest = parts[:1] == b"\1", parts[2:].split(b"\0", 2)
    text = rest[2] if len(rest) == 3 else b""
    return _inflated(text) if compressed else text


def _raw(chunk: Chunk, keywords: Sequence[bytes]) -> bytes | None:
    """Metadata as ImageMagick writes them into a text: in hexadecimal, behind name and length."""
    name, body = chunk
    if name not in (b"zTXt", b"tEXt"):
        return None
    keyword, _, text = body.partition(b"\0")
    if keyword not in keywords:
        return None
    if name == b"zTXt":
        text = _inflated(text[1:])
    try:
        return bytes.fromhex(b"".join(text.split()[2:]).decode("ascii"))
    except (UnicodeDecodeError, ValueError):
        return None


def _raw_exif(chunk: Chunk) -> bytes | None:
    raw = _raw(chunk, _RAW_EXIF)
    return raw.removeprefix(_EXIF) if raw is not None and raw.startswith(_EXIF) else None


def _raw_xmp(chunk: Chunk) -> bytes | None:
    return _raw(chunk, _RAW_XMP)


def _as_raw(chunk: Chunk, kind: str, data: bytes) -> Chunk:
    """The text chunk with other metadata."""
    name, body = chunk
    keyword = body.partition(b"\0")[0]
    digits = data.hex()
    lines = [digits[place : place + 72] for place in range(0, len(digits), 72)]
    text = "\n".join(["", kind, f"{len(data):8}", *lines, ""]).encode()
    if name == b"zTXt":
        return name, keyword + b"\0\0" + zlib.compress(text)
    return name, keyword + b"\0" + text


def _inflated(data: bytes) -> bytes:
    """The text of deflated metadata; empty if they are damaged or very large."""
    inflater = zlib.decompressobj()
    try:
        return inflater.decompress(data, _LONGEST_TEXT)
    except zlib.error:
        return b""


def _palette_background(body: bytes, palette: bytes) -> bytes:
    """The background of a palette's index as a colour; empty if it is not in the palette."""
    colour = palette[3 * body[0] : 3 * body[0] + 3] if body else b""
    return b"".join(b"\0" + bytes([level]) for level in colour)


def _with_colour_key(samples: Samples, key: bytes, bits: int) -> Samples:
    """Samples with an alpha that is 0 where they have the transparent colour, else opaque."""
    channels = samples.shape[2]
    if len(key) != 2 * channels:
        return samples
    colour = np.frombuffer(key, ">u2").astype(np.int64) % 2**bits
    if bits < 8:
        # As the decoder does with fewer than eight bits.
        colour = colour * 255 // (2**bits - 1)
    opaque = np.iinfo(samples.dtype).max
    alpha = np.where((samples == colour).all(axis=2), 0, opaque).astype(samples.dtype)
    return np.dstack([samples, alpha])


def _notes_on_colour(found: dict[bytes, bytes]) -> list[str]:
    """A note where values are far from sRGB's curve, which dehazing assumes."""
    narrow = found.get(b"cICP", b"")[3:4] == b"\0"
    transfer = found.get(b"cICP", b"")[1:2]
    if transfer:
        coded = transfer[0] not in _LIKE_SRGB
        name = {8: "linear", 16: "PQ", 18: "HLG"}.get(transfer[0], f"transfer {transfer[0]}")
    else:
        coded = b"gAMA" in found and not {b"sRGB", b"iCCP"} & found.keys()
        exponent = int.from_bytes(found.get(b"gAMA", b"")[:4], "big") / 1e5
        coded = coded and not 0.35 <= exponent <= 0.65
        name = f"gamma {exponent:g}"
    names = [*([name] if coded else []), *(["the narrow range of video"] if narrow else [])]
    return [f"its values are stored as {name}, and dehazed as if they were sRGB" for name in names]


def _filtered(samples: Samples) -> bytes:
    """Rows of samples as PNG's filter 3 leaves them: less the mean of their two neighbours."""
    height, _, channels = samples.shape
    rows = np.ascontiguousarray(samples).astype(samples.dtype.newbyteorder(">"), copy=False)
    rows = rows.reshape(height, -1).view(np.uint8)
    step = channels * samples.dtype.itemsize
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = 3
    above, current = np.zeros_like(rows[0]), np.empty_like(rows[0])
    left = np.zeros_like(rows[0])
    for index in range(height):
        current = rows[index]
        left[step:] = current[:-step]
        # The mean of two bytes, rounded down, without a ninth bit.
        filtered[index, 1:] = current - ((above & left) + ((above ^ left) >> 1))
        above = current
    return filtered.tobytes()


def _written(chunk: Chunk) -> bytes:
    name, body = chunk
    checksum = zlib.crc32(name + body)
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)
