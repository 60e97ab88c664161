"""TIFF and BigTIFF: reading their directories and samples, and refusing unsupported kinds."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import imagecodecs
import numpy as np
from PIL import Image

from dehaze.photos.ifd import (
    LONG,
    LONG8,
    Directory,
    Structure,
    Value,
    directory_bytes,
)
from dehaze.photos.photo import Decoded, Samples, UnreadableError
from dehaze.photos.pillow import check_samples, cmyk_to_srgb, opened, samples_in, samples_of
from dehaze.photos.tiff_container import (
    TiffContainer,
    container_of,
    directories_below,
    maker_values,
)
from dehaze.photos.tiff_tags import (
    ASSOCIATED,
    BITS,
    BLACK_IS_ZERO,
    CHANNELS,
    CMYK,
    COLOUR_MAP,
    COLOURS,
    COMPRESSION,
    DEFLATE,
    DNG,
    EXTRA_SAMPLES,
    HEIGHT,
    INK_SET,
    JPEG,
    LAYERS,
    LAYOUT,
    LZW,
    NONE,
    OF_LEVELS,
    OLD_JPEG,
    PALETTE,
    PHOTOMETRIC,
    PLANAR,
    PREDICTOR,
    PROFILE,
    REFERENCE,
    RGB,
    ROWS_PER_STRIP,
    SAMPLE_FORMAT,
    STRIP_LENGTHS,
    STRIP_OFFSETS,
    SUB_DIRECTORIES,
    SUBFILE,
    TILE_HEIGHT,
    TILE_LENGTHS,
    TILE_OFFSETS,
    TILE_WIDTH,
    WHITE_IS_ZERO,
    WIDTH,
    XMP,
    YCBCR,
    differences,
    false_levels,
    header,
    integers,
)
from dehaze.photos.xmp import notes_on_promises

_CURE = "save it as a TIFF or PNG of 8 or 16 bits, grey or RGB"
_ANEW = "save it anew as TIFF, with all of its pixels"
_PIECE_NAMES = {STRIP_OFFSETS: "StripOffsets", STRIP_LENGTHS: "StripByteCounts"}
_PIECE_NAMES |= {TILE_OFFSETS: "TileOffsets", TILE_LENGTHS: "TileByteCounts"}
_PHOTOMETRICS = {4: "a transparency mask", 8: "Lab", 9: "Lab", 10: "Lab", 32803: "a sensor's"}
_PHOTOMETRICS |= {32844: "LogL", 32845: "LogLuv", 34892: "a sensor's"}
_FORMATS = {2: "signed", 3: "floating-point", 4: "untyped", 5: "complex", 6: "complex"}
_KINDS_OF_8_BITS = {PALETTE: "palette TIFF", CMYK: "CMYK TIFF", YCBCR: "YCbCr TIFF"}
_FAX = (2, 3, 4)
_READABLE = {NONE, *_FAX, LZW, OLD_JPEG, JPEG, DEFLATE, 32946, 32773, 34925, 50000}
# Compressions that not every build of Pillow can read.
_UNPACKERS = {34925: imagecodecs.lzma_decode, 50000: imagecodecs.zstd_decode}
_CODECS = {9: "JBIG", 10: "JBIG", 34661: "JBIG", 32766: "NeXT", 32809: "ThunderScan"}
_CODECS |= {34676: "SGI Log", 34677: "SGI Log", 34712: "JPEG 2000", 33003: "JPEG 2000"}
_CODECS |= {33004: "JPEG 2000", 33005: "JPEG 2000", 34887: "LERC", 34892: "lossy DNG"}
_CODECS |= {34933: "PNG", 34934: "JPEG XR", 22610: "JPEG XR", 50001: "WebP", 50002: "JPEG XL"}
_CODECS |= {52546: "JPEG XL", 34924: "EER", 65000: "EER", 65001: "EER", 34713: "Nikon NEF"}
_CODECS |= {32767: "Sony ARW", 32769: "packed raw", 32770: "Samsung SRW", 32867: "Kodak"}
_CODECS |= {262: "Kodak", 65535: "Pentax PEF"}

# Every fifth row of strips or tiles of a 16-bit photo is compared with a second decoder.
_EVERY = 5


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
        return self.container.extra_sample == ASSOCIATED and bool(self.extras)

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
        if self.photometric == CMYK:
            notes.append("converted from CMYK to sRGB")
        return Decoded(samples, self.container, tuple(notes))

    def _is_pillows(self) -> bool:
        """Whether Pillow reads it: what tifffile cannot, and plain photos, in half the time."""
        plain = self.bits == 8 and self.planes == 1 and not self.extras
        plain = plain and self.compression not in _UNPACKERS
        return (
            self.compression in (*_FAX, OLD_JPEG)
            or (plain and self.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB))
            or (self.photometric == YCBCR and self.compression != JPEG)
            or (self.photometric == CMYK and self.compression == JPEG)
        )

    def _stored(self) -> Samples:
        """All channels as they are stored, (H, W, C)."""
        # Imported here: it is slow, and most jobs have no such photo.
        import tifffile

        with tifffile.TiffFile(io.BytesIO(self._bare())) as file:
            page = file.pages.first
            samples = np.asarray(page.asarray())
        channels = COLOURS[self.photometric] + len(self.extras)
        if self.planes > 1:
            return np.moveaxis(samples.reshape(channels, self.height, self.width), 0, 2)
        return samples.reshape(self.height, self.width, channels)

    def _as_colours(self, samples: Samples) -> Samples:
        """Grey or RGB, then alpha, of the stored channels."""
        if self.photometric == PALETTE:
            colour_map = np.array(self.structure.integers(self.directory.tags[COLOUR_MAP]))
            # Colours have 16 bits, but some writers use only eight.
            colour_map = colour_map.reshape(3, -1) >> (8 if colour_map.max() > 255 else 0)
            # tifffile gives single bits as booleans, which would index as a mask.
            return colour_map.T.astype(np.uint8)[samples[..., 0].astype(np.uint8)]
        colours = COLOURS[self.photometric]
        if self.photometric == CMYK:
            image = Image.fromarray(np.ascontiguousarray(samples[..., :4]), "CMYK")
            return self._srgb(image)
        samples = samples[..., : colours + 1]
        if self.bits < 8:
            samples = samples.astype(np.uint8) * np.uint8(255 // (2**self.bits - 1))
        if self.photometric == WHITE_IS_ZERO:
            samples = samples.copy()
            samples[..., 0] = np.iinfo(samples.dtype).max - samples[..., 0]
        return samples

    def _srgb(self, image: Image.Image) -> Samples:
        profile = self.directory.tags.get(PROFILE)
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
            if integer(self.directory, PREDICTOR, 1) == 2:
                stored = differences(stored, width)
            pieces = [
                (plane * down + band) * across + column
                for band in chosen
                for column in range(across)
            ]
            channels = stored.shape[2]
            size = {WIDTH: self.width * channels, HEIGHT: len(rows)}
            if TILE_WIDTH in tags:
                size[TILE_WIDTH] = width * channels
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
            data = data if unpack is None else bytes(unpack(data))
            places.append(len(body))
            sizes.append(len(data))
            body += data + bytes(len(data) % 2)
        numbers = {BITS: 16, PHOTOMETRIC: BLACK_IS_ZERO, CHANNELS: 1, PLANAR: 1, PREDICTOR: 1}
        if unpack is not None:
            numbers[COMPRESSION] = NONE
        values = self._layout()
        values |= {
            tag: integers(order, LONG, number) for tag, number in {**numbers, **size}.items()
        }
        where = (integers(order, LONG, *places), integers(order, LONG, *sizes))
        values |= dict(zip(tags_of_pieces, where, strict=True))
        for tag in (EXTRA_SAMPLES, SAMPLE_FORMAT):
            values.pop(tag, None)
        body[:8] = header(order, len(body), big=False)
        return bytes(body) + directory_bytes(values, len(body), order, big=False)

    def _bare(self) -> bytes:
        """The file as a classic TIFF of its first picture, without metadata."""
        order, data = self.structure.order, self.structure.data
        first = len(data) + len(data) % 2
        return b"".join(
            [
                header(order, first, big=False),
                memoryview(data)[8:],
                bytes(len(data) % 2),
                directory_bytes(self._layout(), first, order, big=False),
            ]
        )

    def _layout(self) -> dict[int, Value]:
        """The tags that say how the pixels lie, with offsets of 32 bits."""
        values = {}
        for tag in LAYOUT - {SUBFILE, 255, SUB_DIRECTORIES}:
            entry = self.directory.tags.get(tag)
            if entry is None:
                continue
            if entry.kind == LONG8:
                values[tag] = integers(self.structure.order, LONG, *self.structure.integers(entry))
            else:
                values[tag] = Value(entry.kind, entry.count, self.structure.value(entry))
        return values


def open_tiff(data: bytes) -> TiffSource:
    """Read the directories of a TIFF.

    Raises:
        UnreadableError: of a kind that cannot be read, or damaged.
    """
    structure, full = _pictures(data)
    directory, integer = full[0], structure.integer
    compression = integer(directory, COMPRESSION, NONE)
    photometric = integer(directory, PHOTOMETRIC, BLACK_IS_ZERO)
    channels = integer(directory, CHANNELS, 1)
    bits = set(structure.integers(directory.tags.get(BITS)) or (1,))
    _refuse_kind(structure, directory, compression, photometric, channels, bits)
    width, height = integer(directory, WIDTH), integer(directory, HEIGHT)
    planes = channels if integer(directory, PLANAR, 1) == 2 else 1
    _refuse_missing(structure, directory, width, height, planes)
    extras = structure.integers(directory.tags.get(EXTRA_SAMPLES))
    extras = (*extras, *[0] * channels)[: channels - COLOURS[photometric]]
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
        container_of(structure, directory, compression, photometric, depth, extras),
        (
            *_notes_on_pictures(full),
            *_notes_on_tags(structure, directory),
            *_notes_on_levels(directory, photometric, depth),
            *notes_on_promises(_xmp(structure, directory)),
            *_notes_on_channels(photometric, len(extras)),
        ),
    )


def _pictures(data: bytes) -> tuple[Structure, list[Directory]]:
    """A file's structure, and the directories of its pictures at full size.

    Raises:
        UnreadableError: damaged, camera raw, or the first picture is a preview.
    """
    damaged = UnreadableError("is a damaged TIFF, or of a kind that is not supported", _CURE)
    try:
        structure = Structure(data)
    except ValueError as error:
        raise damaged from error
    directories = list(structure.chain())
    if not directories or not {WIDTH, HEIGHT} <= directories[0].tags.keys():
        raise damaged
    if DNG in directories[0].tags:
        raise UnreadableError(
            "camera raw (DNG) is not supported", "develop it to TIFF or JPEG first"
        )
    below = [
        directory
        for place in structure.integers(directories[0].tags.get(SUB_DIRECTORIES))
        if (directory := structure.directory(place)) is not None and WIDTH in directory.tags
    ]
    full = [each for each in (*directories, *below) if not structure.integer(each, SUBFILE) & 1]
    if directories[0] not in full:
        raise UnreadableError(
            "is a TIFF whose first picture is a preview", "save it as a TIFF of one page"
        )
    return structure, full


def _notes_on_pictures(full: Sequence[Directory]) -> Iterator[str]:
    """Notes on pictures that are left out: all but the first, and Photoshop's layers."""
    if len(full) > 1:
        yield f"only the first of its {len(full)} pictures is kept"
    if LAYERS in full[0].tags:
        yield "its Photoshop layers are left out, the flattened picture is kept"


def _notes_on_tags(structure: Structure, directory: Directory) -> Iterator[str]:
    """Notes on tags that cannot be kept, in the directory and in those that it leads to."""
    unread = sorted({*directory.unread} - {*LAYOUT, LAYERS, *directory.tags})
    if unread:
        named = ", ".join(map(str, unread))
        yield f"its tags that are damaged or of an unknown type are left out ({named})"
    details = [
        each for entry in directory.entries for each in directories_below(structure, entry, set())
    ]
    if any(maker_values(structure, directory, each)[1] for each in details):
        yield "its maker notes lose values that lie among its pixels"
    below = sorted({tag for each in details for tag in each.unread})
    if below:
        named = ", ".join(map(str, below))
        yield (
            f"its EXIF tags that are damaged or of an unknown type may lose their values ({named})"
        )


def _notes_on_levels(directory: Directory, photometric: int, bits: int) -> Iterator[str]:
    """Which tags about the levels of samples are left out, since the result's differ."""
    lost = false_levels(photometric, bits) & directory.tags.keys()
    # Every reader of YCbCr applies these, and so does the decoder.
    lost -= {REFERENCE} if photometric == YCBCR else set()
    if lost:
        named = ", ".join(OF_LEVELS[tag] for tag in sorted(lost))
        yield f"its tags about levels that the result does not have are left out ({named})"


def _xmp(structure: Structure, directory: Directory) -> bytes:
    packet = directory.tags.get(XMP)
    return b"" if packet is None else structure.value(packet)


def _notes_on_channels(photometric: int, extras: int) -> Iterator[str]:
    """How many channels beside the colours are left out: all but an alpha that can be kept."""
    left_out = extras - (0 if photometric in (PALETTE, CMYK, YCBCR) else 1)
    if left_out > 0:
        yield f"{left_out} of its channels beside the colours are left out"


def _refuse_kind(
    structure: Structure,
    directory: Directory,
    compression: int,
    photometric: int,
    channels: int,
    bits: set[int],
) -> None:
    """Raises a refusal for a kind of TIFF that cannot be read, by its name."""
    formats = set(structure.integers(directory.tags.get(SAMPLE_FORMAT)))
    named = next((_FORMATS[each] for each in formats if each in _FORMATS), None)
    depths = " and ".join(map(str, sorted(bits)))
    if named is not None:
        raise UnreadableError(f"is a TIFF of {named} samples, which is not supported", _CURE)
    if photometric not in COLOURS:
        name = _PHOTOMETRICS.get(photometric, f"kind {photometric}")
        raise UnreadableError(f"is a TIFF whose colours are {name}, which is not supported", _CURE)
    if compression not in _READABLE:
        codec = _CODECS.get(compression, f"method {compression}")
        raise UnreadableError(
            f"is a TIFF compressed with {codec}, which is not supported",
            "save it with LZW, ZIP or no compression",
        )
    narrow = photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO, PALETTE) and channels == 1
    allowed = {8} if photometric in (PALETTE, CMYK, YCBCR) else {8, 16}
    allowed |= {1, 2, 4} if narrow else set()
    if len(bits) > 1 or not bits <= allowed:
        kind = _KINDS_OF_8_BITS.get(photometric, "TIFF")
        raise UnreadableError(
            f"is a {kind} of {depths} bits a sample, which is not supported", _CURE
        )
    if compression in (JPEG, OLD_JPEG) and bits != {8}:
        raise UnreadableError(
            "is a TIFF compressed with JPEG of more than 8 bits, which is not supported", _CURE
        )
    if channels < COLOURS[photometric]:
        raise UnreadableError(f"is a TIFF of {channels} channels, which is not supported", _CURE)
    if photometric == CMYK and structure.integer(directory, INK_SET, 1) != 1:
        raise UnreadableError("is a TIFF of other inks than CMYK, which is not supported", _CURE)
    if photometric == PALETTE and COLOUR_MAP not in directory.tags:
        raise UnreadableError("is a TIFF without its palette")


def _refuse_missing(
    structure: Structure, directory: Directory, width: int, height: int, planes: int
) -> None:
    """Raises a refusal if pixels lie outside of the file, where the decoder would give black."""
    tags = _piece_tags(directory)
    places, sizes = map(directory.tags.get, tags)
    across, down = _piece_size(structure, directory, width, height)
    expected = -(-width // across) * -(-height // down) * planes
    offsets, lengths = structure.integers(places), structure.integers(sizes)
    if structure.integer(directory, COMPRESSION, NONE) == OLD_JPEG:
        return
    # The directory, or a value of these tags, is not in the file to its end.
    if directory.pointer is None or not {*tags}.isdisjoint(directory.unread):
        raise UnreadableError("is cut short")
    if not {*tags} <= directory.tags.keys():
        missing = " and ".join(_PIECE_NAMES[tag] for tag in tags if tag not in directory.tags)
        raise UnreadableError(
            f"is a TIFF that does not say where its pixels lie (no {missing})", _ANEW
        )
    count = min(len(offsets), len(lengths))
    if count < expected:
        raise UnreadableError(
            f"is a TIFF with {count} strips or tiles, where its size needs {expected}", _ANEW
        )
    pieces = list(zip(offsets, lengths, strict=False))
    if any(start == 0 or length == 0 for start, length in pieces):
        raise UnreadableError(
            "is a TIFF some of whose strips or tiles are not stored (sparse, or never finished)",
            _ANEW,
        )
    if any(start + length > len(structure.data) for start, length in pieces):
        raise UnreadableError("is cut short")


def _piece_tags(directory: Directory) -> tuple[int, int]:
    """The tags of where the strips or tiles lie, and of how long they are."""
    if TILE_WIDTH in directory.tags:
        return TILE_OFFSETS, TILE_LENGTHS
    return STRIP_OFFSETS, STRIP_LENGTHS


def _piece_size(
    structure: Structure, directory: Directory, width: int, height: int
) -> tuple[int, int]:
    """Width and height, in pixels, of the strips or tiles of a picture of this size."""
    if TILE_WIDTH in directory.tags:
        return (
            max(1, structure.integer(directory, TILE_WIDTH)),
            max(1, structure.integer(directory, TILE_HEIGHT, 1)),
        )
    return width, max(1, min(structure.integer(directory, ROWS_PER_STRIP) or height, height))
