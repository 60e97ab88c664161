"""TIFF and BigTIFF: new strips between the metadata of the source, which stay in place.

Maker notes refer to places in the file, so the EXIF directory and all that it leads to stay in
place. Strips fill the gaps, and a new first directory comes last.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import imagecodecs
import numpy as np
from PIL import Image

from dehaze.photos.exif import ORIENTATION, make_upright
from dehaze.photos.ifd import (
    EXIF_DIRECTORY,
    GPS_DIRECTORY,
    INTEROPERABILITY_DIRECTORY,
    LONG,
    LONG8,
    SHORT,
    Directory,
    Entry,
    Structure,
    Value,
    directory_bytes,
)
from dehaze.photos.photo import Decoded, Metadata, Samples, UnreadableError
from dehaze.photos.pillow import check_samples, cmyk_to_srgb, opened, samples_in, samples_of
from dehaze.photos.xmp import upright_xmp, xmp_orientation

_CURE = "save it as a TIFF or PNG of 8 or 16 bits, grey or RGB"
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_STRIP_OFFSETS, _CHANNELS, _ROWS_PER_STRIP, _STRIP_LENGTHS = 273, 277, 278, 279
_PLANAR, _TRANSFER, _PREDICTOR, _COLOUR_MAP = 284, 301, 317, 320
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_LENGTHS = 322, 323, 324, 325
_SUB_DIRECTORIES, _INK_SET, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 330, 332, 338, 339
_XMP, _PROFILE, _LAYERS, _DNG = 700, 34675, 37724, 50706
_MAKER_NOTE = 37500
# Tags that an EXIF block cannot hold, and their names for notes.
_NOT_EXIF = {_XMP: "", _PROFILE: "", _TRANSFER: "", 33723: "IPTC", 34377: "Photoshop's own"}
# Tags of how pixels lie in the file, which the writer makes anew.
_LAYOUT = frozenset(
    {*range(254, 267), 273, *range(277, 282), 284, *range(288, 294), 317, *range(320, 348)}
    | {*range(512, 522), *range(529, 533)}
)
# Tags that lead to a directory of metadata, whatever their type.
_LEADING = (EXIF_DIRECTORY, GPS_DIRECTORY, INTEROPERABILITY_DIRECTORY, 400)
_DIRECTORY_KINDS = (13, 18)
_BIG_KINDS = (16, 17, 18)

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3}
_PHOTOMETRICS = {4: "a transparency mask", 8: "Lab", 9: "Lab", 10: "Lab", 32803: "a sensor's"}
_PHOTOMETRICS |= {32844: "LogL", 32845: "LogLuv", 34892: "a sensor's"}
_FORMATS = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}
_NONE, _LZW, _OLD_JPEG, _JPEG, _DEFLATE = 1, 5, 6, 7, 8
_FAX = (2, 3, 4)
_READABLE = {_NONE, *_FAX, _LZW, _OLD_JPEG, _JPEG, _DEFLATE, 32946, 32773, 34925, 50000}
# Compressions that not every build of Pillow can read.
_UNPACKERS = {34925: imagecodecs.lzma_decode, 50000: imagecodecs.zstd_decode}
_CODECS = {9: "JBIG", 10: "JBIG", 34661: "JBIG", 32766: "NeXT", 32809: "ThunderScan"}
_CODECS |= {34676: "SGI Log", 34677: "SGI Log", 34712: "JPEG 2000", 33003: "JPEG 2000"}
_CODECS |= {33004: "JPEG 2000", 33005: "JPEG 2000", 34887: "LERC", 34892: "lossy DNG"}
_CODECS |= {34933: "PNG", 34934: "JPEG XR", 22610: "JPEG XR", 50001: "WebP", 50002: "JPEG XL"}
_CODECS |= {52546: "JPEG XL", 34924: "EER", 65000: "EER", 65001: "EER", 34713: "Nikon NEF"}
_CODECS |= {32767: "Sony ARW", 32769: "packed raw", 32770: "Samsung SRW", 32867: "Kodak"}
_CODECS |= {262: "Kodak", 65535: "Pentax PEF"}

_ASSOCIATED, _UNASSOCIATED = 1, 2
# Bytes of samples in a strip; small, so that little room is lost where one does not fit.
_STRIP_BYTES = 2**18
_LIBDEFLATE_LEVEL = 6
# Every fifth row of strips or tiles of a 16-bit photo is compared with a second decoder.
_EVERY = 5


@dataclass(frozen=True)
class TiffContainer:
    """What a TIFF has besides its pixels.

    Attributes:
        order: of the bytes, as struct writes it: "<" or ">".
        big: BigTIFF, with offsets of 64 bits.
        values: of the first directory's tags that are kept.
        pieces: the other directories' bytes, and where they begin in the file.
        orientation: that the pixels were stored in.
        compression: the number of the source's.
        extra_sample: what a channel beside the colours is: 0 unspecified, 1 alpha that the colours
            are multiplied by, 2 alpha.
    """

    order: str = "<"
    big: bool = False
    values: Mapping[int, Value] = field(default_factory=dict)
    pieces: tuple[tuple[int, bytes], ...] = ()
    orientation: int = 1
    compression: int = _DEFLATE
    extra_sample: int = _UNASSOCIATED

    def encode(self, samples: Samples) -> bytes:
        """A TIFF of 8 or 16-bit samples: grey or RGB, and alpha."""
        height, width, channels = samples.shape
        compression = self.compression if self.compression in (_NONE, _LZW) else _DEFLATE
        rows = min(height, max(1, _STRIP_BYTES // samples[0].nbytes))
        data = bytearray(16 if self.big else 8)
        gaps: list[tuple[int, int]] = []
        for start, piece in self.pieces:
            gaps.append((len(data), start))
            data += bytes(start - len(data)) + piece
        offsets, lengths = [], []
        for strip in _strips(samples, rows, compression, self.order):
            offsets.append(_placed(data, gaps, strip))
            lengths.append(len(strip))
        where = LONG8 if self.big else LONG
        own = {
            _WIDTH: self._integers(LONG, width),
            _HEIGHT: self._integers(LONG, height),
            _BITS: self._integers(SHORT, *[samples.dtype.itemsize * 8] * channels),
            _COMPRESSION: self._integers(SHORT, compression),
            _PHOTOMETRIC: self._integers(SHORT, _BLACK_IS_ZERO if channels < 3 else _RGB),
            _STRIP_OFFSETS: self._integers(where, *offsets),
            _CHANNELS: self._integers(SHORT, channels),
            _ROWS_PER_STRIP: self._integers(LONG, rows),
            _STRIP_LENGTHS: self._integers(where, *lengths),
            _PLANAR: self._integers(SHORT, 1),
        }
        if compression != _NONE:
            own[_PREDICTOR] = self._integers(SHORT, 2)
        if channels in (2, 4):
            own[_EXTRA_SAMPLES] = self._integers(SHORT, self.extra_sample)
        kept = dict(self.values)
        if _XMP in kept:
            packet = upright_xmp(kept[_XMP].data, width=width, height=height)
            kept[_XMP] = Value(kept[_XMP].kind, len(packet), packet)
        data += bytes(len(data) % 2)
        first = len(data)
        data += directory_bytes(kept | own, first, self.order, big=self.big)
        data[: 16 if self.big else 8] = _header(self.order, first, big=self.big)
        structure = Structure(data)
        directory = structure.directory(first)
        if directory is not None:
            make_upright(
                data,
                structure,
                directory,
                width=width,
                height=height,
                orientation=self.orientation,
            )
        return bytes(data)

    @property
    def metadata(self) -> Metadata:
        """See ``Container``."""
        exif, has_maker_note = self._exif()
        missed = [name for tag, name in _NOT_EXIF.items() if name and tag in self.values]
        return Metadata(
            exif=exif,
            xmp=self.values[_XMP].data if _XMP in self.values else b"",
            profile=self.values[_PROFILE].data if _PROFILE in self.values else b"",
            orientation=self.orientation,
            others=(*missed, *(["maker notes"] if has_maker_note else [])),
        )

    @classmethod
    def labelled(cls, metadata: Metadata) -> TiffContainer:
        """A container with this metadata: the EXIF block's directories, in their places."""
        container = cls()
        try:
            structure = Structure(metadata.exif)
            directory = structure.directory(structure.first)
        except ValueError:
            directory = None
        if directory is not None:
            container = _container(structure, directory, _DEFLATE, _RGB, 8, ())
        bodies = ((_XMP, 1, metadata.xmp), (_PROFILE, 7, metadata.profile))
        values = {tag: Value(kind, len(body), body) for tag, kind, body in bodies if body}
        return replace(
            container,
            values={**container.values, **values},
            orientation=metadata.orientation,
        )

    def _exif(self) -> tuple[bytes, bool]:
        """An EXIF block of the tags, and whether a maker note had to be left out.

        A maker note refers to places in the file, which differ in a block.
        """
        data = bytearray(_header(self.order, 0, big=self.big))
        for start, piece in self.pieces:
            data += bytes(start - len(data)) + piece
        structure = Structure(data)
        values = {
            tag: value
            for tag, value in self.values.items()
            if tag not in (*_NOT_EXIF, *_LEADING)
            and value.kind not in (*_DIRECTORY_KINDS, *_BIG_KINDS)
        }
        block, has_maker_note = bytearray(8), False
        for tag in (EXIF_DIRECTORY, GPS_DIRECTORY):
            leading = self.values.get(tag)
            start = int.from_bytes(leading.data, self._endian) if leading is not None else 0
            directory = structure.directory(start)
            if directory is None:
                continue
            has_maker_note |= _MAKER_NOTE in directory.tags
            below = {
                entry.tag: Value(entry.kind, entry.count, structure.value(entry))
                for entry in directory.entries
                if entry.tag not in (_MAKER_NOTE, *_LEADING) and entry.kind not in _BIG_KINDS
            }
            values[tag] = self._integers(LONG, len(block))
            block += directory_bytes(below, len(block), self.order, big=False)
            block += bytes(len(block) % 2)
        if not values:
            return b"", has_maker_note
        first = len(block)
        block += directory_bytes(values, first, self.order, big=False)
        block[:8] = _header(self.order, first, big=False)
        return bytes(block), has_maker_note

    @property
    def _endian(self) -> Literal["little", "big"]:
        return "little" if self.order == "<" else "big"

    def _integers(self, kind: int, *numbers: int) -> Value:
        return _integers(self.order, kind, *numbers)


@dataclass(frozen=True)
class TiffSource:
    """A TIFF file, its directories read.

    Attributes:
        bits: of a sample.
        colours: how many channels are colours.
        extras: what the other channels are, see ``TiffContainer.extra_sample``.
    """

    width: int
    height: int
    bits: int
    photometric: int
    compression: int
    planes: int
    extras: tuple[int, ...]
    structure: Structure
    directory: Directory
    container: TiffContainer
    notes: tuple[str, ...]

    @property
    def orientation(self) -> int:
        """1 to 8, as EXIF numbers them."""
        return self.container.orientation

    @property
    def premultiplied(self) -> bool:
        """Whether colours are stored times alpha."""
        return self.container.extra_sample == _ASSOCIATED and bool(self.extras)

    def decode(self) -> Decoded:
        """The samples; see ``Source``."""
        notes = list(self.notes)
        if self._is_pillows():
            with opened(self._bare(), "TIFF") as image:
                image.load()
                samples = self._srgb(image) if image.mode == "CMYK" else samples_of(image)
        else:
            samples = self._stored()
            if self.bits == 16:
                self._cross_check(samples)
            samples = self._as_colours(samples)
        if self.photometric == _CMYK:
            notes.append("converted from CMYK to sRGB")
        return Decoded(samples, self.container, tuple(notes))

    def _is_pillows(self) -> bool:
        """Whether Pillow reads it: what tifffile cannot, and plain photos, in half the time."""
        plain = self.bits == 8 and self.planes == 1 and not self.extras
        plain = plain and self.compression not in _UNPACKERS
        return (
            self.compression in (*_FAX, _OLD_JPEG)
            or (plain and self.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB))
            or (self.photometric == _YCBCR and self.compression != _JPEG)
            or (self.photometric == _CMYK and self.compression == _JPEG)
        )

    def _stored(self) -> Samples:
        """All channels as they are stored, (H, W, C)."""
        # Imported here: it is slow, and most jobs have no such photo.
        import tifffile

        with tifffile.TiffFile(io.BytesIO(self._bare())) as file:
            page = file.pages.first
            samples = np.asarray(page.asarray())
        channels = _COLOURS[self.photometric] + len(self.extras)
        if self.planes > 1:
            return np.moveaxis(samples.reshape(channels, self.height, self.width), 0, 2)
        return samples.reshape(self.height, self.width, channels)

    def _as_colours(self, samples: Samples) -> Samples:
        """Grey or RGB, then alpha, of the stored channels."""
        if self.photometric == _PALETTE:
            colour_map = np.array(self.structure.integers(self.directory.tags[_COLOUR_MAP]))
            # Colours have 16 bits, but some writers use only eight.
            colour_map = colour_map.reshape(3, -1) >> (8 if colour_map.max() > 255 else 0)
            # tifffile gives single bits as booleans, which would index as a mask.
            return colour_map.T.astype(np.uint8)[samples[..., 0].astype(np.uint8)]
        colours = _COLOURS[self.photometric]
        if self.photometric == _CMYK:
            image = Image.fromarray(np.ascontiguousarray(samples[..., :4]), "CMYK")
            return self._srgb(image)
        samples = samples[..., : colours + 1]
        if self.bits < 8:
            samples = samples.astype(np.uint8) * np.uint8(255 // (2**self.bits - 1))
        if self.photometric == _WHITE_IS_ZERO:
            samples = samples.copy()
            samples[..., 0] = np.iinfo(samples.dtype).max - samples[..., 0]
        return samples

    def _srgb(self, image: Image.Image) -> Samples:
        profile = self.directory.tags.get(_PROFILE)
        return cmyk_to_srgb(image, None if profile is None else self.structure.value(profile))

    def _cross_check(self, samples: Samples) -> None:
        """Compare some rows with Pillow, which sees all samples of a row as one grey channel.

        Raises:
            UnreadableError: it reads something else.
        """
        # 1. A fifth of the rows of strips or tiles, and the last, which may be less high.
        integer, tags = self.structure.integer, self.directory.tags
        width, height = _piece_size(self.structure, self.directory, self.width, self.height)
        down, across = -(-self.height // height), -(-self.width // width)
        chosen = sorted({*range(0, down, _EVERY), down - 1})
        rows = np.concatenate([np.arange(height) + band * height for band in chosen])
        rows = rows[rows < self.height]
        # 2. As stored, and as Pillow sees it.
        for plane in range(self.planes):
            stored = samples[rows, :, plane : plane + 1] if self.planes > 1 else samples[rows]
            if integer(self.directory, _PREDICTOR, 1) == 2:
                stored = _differences(stored, width)
            pieces = [
                (plane * down + band) * across + column
                for band in chosen
                for column in range(across)
            ]
            channels = stored.shape[2]
            size = {_WIDTH: self.width * channels, _HEIGHT: len(rows)}
            if _TILE_WIDTH in tags:
                size[_TILE_WIDTH] = width * channels
            seen = samples_in(self._grey(pieces, size), "TIFF")
            check_samples(stored, seen.reshape(stored.shape))

    def _grey(self, pieces: Sequence[int], size: Mapping[int, int]) -> bytes:
        """A TIFF of 16-bit grey, without prediction, of some strips or tiles.

        Args:
            pieces: which of them.
            size: the tags that say how large it is.
        """
        tags, order = self.directory.tags, self.structure.order
        tags_of_pieces = _piece_tags(self.directory)
        offsets, lengths = (self.structure.integers(tags[tag]) for tag in tags_of_pieces)
        unpack = _UNPACKERS.get(self.compression)
        body, places, sizes = bytearray(8), [], []
        for piece in pieces:
            data = self.structure.data[offsets[piece] : offsets[piece] + lengths[piece]]
            data = data if unpack is None else unpack(data)
            places.append(len(body))
            sizes.append(len(data))
            body += data + bytes(len(data) % 2)
        numbers = {_BITS: 16, _PHOTOMETRIC: _BLACK_IS_ZERO, _CHANNELS: 1, _PLANAR: 1, _PREDICTOR: 1}
        if unpack is not None:
            numbers[_COMPRESSION] = _NONE
        values = self._layout()
        values |= {
            tag: _integers(order, LONG, number) for tag, number in {**numbers, **size}.items()
        }
        where = (_integers(order, LONG, *places), _integers(order, LONG, *sizes))
        values |= dict(zip(tags_of_pieces, where, strict=True))
        for tag in (_EXTRA_SAMPLES, _SAMPLE_FORMAT):
            values.pop(tag, None)
        body[:8] = _header(order, len(body), big=False)
        return bytes(body) + directory_bytes(values, len(body), order, big=False)

    def _bare(self) -> bytes:
        """The file as a classic TIFF of its first picture, without metadata."""
        order, data = self.structure.order, self.structure.data
        first = len(data) + len(data) % 2
        return b"".join(
            [
                _header(order, first, big=False),
                memoryview(data)[8:],
                bytes(len(data) % 2),
                directory_bytes(self._layout(), first, order, big=False),
            ]
        )

    def _layout(self) -> dict[int, Value]:
        """The tags that say how the pixels lie, with offsets of 32 bits."""
        values = {}
        for tag in _LAYOUT - {_SUBFILE, 255, _SUB_DIRECTORIES}:
            entry = self.directory.tags.get(tag)
            if entry is None:
                continue
            if entry.kind == LONG8:
                values[tag] = _integers(self.structure.order, LONG, *self.structure.integers(entry))
            else:
                values[tag] = Value(entry.kind, entry.count, self.structure.value(entry))
        return values


def _integers(order: str, kind: int, *numbers: int) -> Value:
    letter = {SHORT: "H", LONG: "I", LONG8: "Q"}[kind]
    return Value(kind, len(numbers), struct.pack(f"{order}{len(numbers)}{letter}", *numbers))


def open_tiff(data: bytes) -> TiffSource:
    """Read the directories of a TIFF.

    Raises:
        UnreadableError: of a kind that cannot be read, or damaged.
    """
    damaged = UnreadableError("is a damaged TIFF, or of a kind that is not supported", _CURE)
    try:
        structure = Structure(data)
    except ValueError as error:
        raise damaged from error
    directories = list(structure.chain())
    if not directories:
        raise damaged
    directory = directories[0]
    tags, integer = directory.tags, structure.integer
    if _WIDTH not in tags or _HEIGHT not in tags:
        raise damaged
    if _DNG in tags:
        raise UnreadableError(
            "camera raw (DNG) is not supported", "develop it to TIFF or JPEG first"
        )

    full = [each for each in directories if not integer(each, _SUBFILE) & 1]
    if directory not in full:
        raise UnreadableError(
            "is a TIFF whose first picture is a preview", "save it as a TIFF of one page"
        )
    compression = integer(directory, _COMPRESSION, _NONE)
    photometric = integer(directory, _PHOTOMETRIC, _BLACK_IS_ZERO)
    channels = integer(directory, _CHANNELS, 1)
    bits = set(structure.integers(tags.get(_BITS)) or (1,))
    _refuse_kind(structure, directory, compression, photometric, channels, bits)
    extras = structure.integers(tags.get(_EXTRA_SAMPLES))
    extras = (*extras, *[0] * channels)[: channels - _COLOURS[photometric]]

    notes = []
    if len(full) > 1:
        notes.append(f"only the first of its {len(full)} pictures is kept")
    if _LAYERS in tags:
        notes.append("its Photoshop layers are left out, the flattened picture is kept")
    unread = sorted({*directory.unread} - {*_LAYOUT, _LAYERS, *tags})
    if unread:
        named = ", ".join(map(str, unread))
        notes.append(f"its tags that are damaged or of an unknown type are left out ({named})")
    below = sorted(
        {
            tag
            for entry in directory.entries
            for each in _directories(structure, entry, set())
            for tag in each.unread
        }
    )
    if below:
        named = ", ".join(map(str, below))
        notes.append(
            f"its EXIF tags that are damaged or of an unknown type may lose their values ({named})"
        )
    kept_extras = 0 if photometric in (_PALETTE, _CMYK, _YCBCR) else 1
    if len(extras) > kept_extras:
        notes.append(f"{len(extras) - kept_extras} of its channels beside the colours are left out")

    width, height = integer(directory, _WIDTH), integer(directory, _HEIGHT)
    planes = channels if integer(directory, _PLANAR, 1) == 2 else 1
    _refuse_missing(structure, directory, width, height, planes)
    depth = max(bits)
    return TiffSource(
        width,
        height,
        depth,
        photometric,
        compression,
        planes,
        extras,
        structure,
        directory,
        _container(structure, directory, compression, photometric, depth, extras),
        tuple(notes),
    )


def _refuse_kind(
    structure: Structure,
    directory: Directory,
    compression: int,
    photometric: int,
    channels: int,
    bits: set[int],
) -> None:
    """Raises a refusal for a kind of TIFF that cannot be read, by its name."""
    formats = set(structure.integers(directory.tags.get(_SAMPLE_FORMAT)))
    named = next((_FORMATS[each] for each in formats if each in _FORMATS), None)
    depths = " and ".join(map(str, sorted(bits)))
    if named is not None:
        raise UnreadableError(f"is a TIFF of {named} samples, which is not supported", _CURE)
    if photometric not in _COLOURS:
        name = _PHOTOMETRICS.get(photometric, f"kind {photometric}")
        raise UnreadableError(f"is a TIFF whose colours are {name}, which is not supported", _CURE)
    if compression not in _READABLE:
        codec = _CODECS.get(compression, f"method {compression}")
        raise UnreadableError(
            f"is a TIFF compressed with {codec}, which is not supported",
            "save it with LZW, ZIP or no compression",
        )
    narrow = photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _PALETTE) and channels == 1
    allowed = {8} if photometric in (_PALETTE, _CMYK, _YCBCR) else {8, 16}
    allowed |= {1, 2, 4} if narrow else set()
    if len(bits) > 1 or not bits <= allowed:
        raise UnreadableError(f"is a TIFF of {depths} bits a sample, which is not supported", _CURE)
    if compression in (_JPEG, _OLD_JPEG) and bits != {8}:
        raise UnreadableError(
            "is a TIFF compressed with JPEG of more than 8 bits, which is not supported", _CURE
        )
    if channels < _COLOURS[photometric]:
        raise UnreadableError(f"is a TIFF of {channels} channels, which is not supported", _CURE)
    if photometric == _CMYK and structure.integer(directory, _INK_SET, 1) != 1:
        raise UnreadableError("is a TIFF of other inks than CMYK, which is not supported", _CURE)
    if photometric == _PALETTE and _COLOUR_MAP not in directory.tags:
        raise UnreadableError("is a TIFF without its palette")


def _refuse_missing(
    structure: Structure, directory: Directory, width: int, height: int, planes: int
) -> None:
    """Raises a refusal if pixels lie outside of the file, where the decoder would give black."""
    places, sizes = map(directory.tags.get, _piece_tags(directory))
    across, down = _piece_size(structure, directory, width, height)
    expected = -(-width // across) * -(-height // down) * planes
    offsets, lengths = structure.integers(places), structure.integers(sizes)
    if structure.integer(directory, _COMPRESSION, _NONE) == _OLD_JPEG:
        return
    if len(offsets) < expected or len(lengths) < expected:
        raise UnreadableError("is cut short")
    if any(
        start == 0 or length == 0 or start + length > len(structure.data)
        for start, length in zip(offsets, lengths, strict=False)
    ):
        raise UnreadableError("is cut short")


def _piece_tags(directory: Directory) -> tuple[int, int]:
    """The tags of where the strips or tiles lie, and of how long they are."""
    if _TILE_WIDTH in directory.tags:
        return _TILE_OFFSETS, _TILE_LENGTHS
    return _STRIP_OFFSETS, _STRIP_LENGTHS


def _piece_size(
    structure: Structure, directory: Directory, width: int, height: int
) -> tuple[int, int]:
    """Width and height, in pixels, of the strips or tiles of a picture of this size."""
    if _TILE_WIDTH in directory.tags:
        return (
            max(1, structure.integer(directory, _TILE_WIDTH)),
            max(1, structure.integer(directory, _TILE_HEIGHT, 1)),
        )
    return width, max(1, min(structure.integer(directory, _ROWS_PER_STRIP) or height, height))


def _container(
    structure: Structure,
    directory: Directory,
    compression: int,
    photometric: int,
    bits: int,
    extras: Sequence[int],
) -> TiffContainer:
    left_out = {*_LAYOUT, _LAYERS}
    if photometric == _CMYK:
        left_out.add(_PROFILE)
    if bits not in (8, 16) or photometric == _PALETTE:
        # A table with one value for each level of the source's samples.
        left_out.add(_TRANSFER)
    values: dict[int, Value] = {}
    spans: list[tuple[int, int]] = []
    for entry in directory.entries:
        if entry.tag in left_out or entry.tag in values:
            continue
        if _leads(entry):
            below = list(_directories(structure, entry, set()))
            if not below:
                continue
            for each in below:
                spans += _spans(each)
        values[entry.tag] = Value(entry.kind, entry.count, structure.value(entry))
    orientation = structure.integer(directory, ORIENTATION)
    if ORIENTATION not in values and _XMP in values:
        orientation = xmp_orientation(values[_XMP].data) or 1
    return TiffContainer(
        structure.order,
        structure.big,
        values,
        _pieces(structure, spans),
        orientation if orientation in range(1, 9) else 1,
        compression,
        extras[0] if extras else _UNASSOCIATED,
    )


def _leads(entry: Entry) -> bool:
    """Whether a tag leads to a directory of metadata."""
    return entry.tag in _LEADING or entry.kind in _DIRECTORY_KINDS


def _directories(structure: Structure, leading: Entry, seen: set[int]) -> Iterator[Directory]:
    """The directories that a tag leads to, and all that they lead to."""
    for start in structure.integers(leading) if _leads(leading) else ():
        directory = None if start in seen else structure.directory(start)
        if directory is None:
            continue
        seen.add(start)
        yield directory
        for entry in directory.entries:
            yield from _directories(structure, entry, seen)


def _spans(directory: Directory) -> Iterator[tuple[int, int]]:
    """Where a directory lies, and all of its values."""
    yield directory.start, directory.end
    for entry in directory.entries:
        if not directory.start <= entry.start < directory.end:
            yield entry.start, entry.end


def _pieces(
    structure: Structure, spans: Sequence[tuple[int, int]]
) -> tuple[tuple[int, bytes], ...]:
    """The bytes of spans, and where they begin; none lies in the header."""
    header = 16 if structure.big else 8
    behind = [(max(start, header), end) for start, end in spans if end > header]
    return tuple((start, bytes(structure.data[start:end])) for start, end in _merged(behind))


def _merged(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans in order; spans that touch become one."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _strips(samples: Samples, rows: int, compression: int, order: str) -> Iterator[bytes]:
    """Coded strips of so many rows each."""
    stored = np.dtype(f"{order}u{samples.dtype.itemsize}")
    for top in range(0, len(samples), rows):
        strip = samples[top : top + rows]
        if compression != _NONE:
            strip = _differences(strip, strip.shape[1])
        data = strip.astype(stored, copy=False).tobytes()
        if compression == _DEFLATE:
            yield bytes(imagecodecs.deflate_encode(data, _LIBDEFLATE_LEVEL))
        elif compression == _LZW:
            yield bytes(imagecodecs.lzw_encode(data))
        else:
            yield data


def _differences(samples: Samples, width: int) -> Samples:
    """Each sample minus the one to its left, in strips or tiles of this width."""
    differences = samples.copy()
    differences[:, 1:] -= samples[:, :-1]
    differences[:, ::width] = samples[:, ::width]
    return differences


def _placed(data: bytearray, gaps: list[tuple[int, int]], strip: bytes) -> int:
    """Put a strip into the first gap that has room, or at the end; returns where."""
    while gaps:
        start, end = gaps[0]
        start += start % 2
        if start + len(strip) <= end:
            data[start : start + len(strip)] = strip
            gaps[0] = start + len(strip), end
            return start
        gaps.pop(0)
    data += bytes(len(data) % 2)
    start = len(data)
    data += strip
    return start


def _header(order: str, first: int, *, big: bool) -> bytes:
    mark = b"II" if order == "<" else b"MM"
    if big:
        return mark + struct.pack(f"{order}HHHQ", 43, 8, 0, first)
    return mark + struct.pack(f"{order}HI", 42, first)
