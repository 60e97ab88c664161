"""Everything in a TIFF besides its pixels: new strips between the metadata, which stay in place.

Maker notes refer to places in the file, so the EXIF directory and all that it leads to stay in
place. Strips fill the gaps, and a new first directory comes last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import imagecodecs
import numpy as np

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
from dehaze.photos.maker_notes import Span, values_outside
from dehaze.photos.photo import Metadata, Samples
from dehaze.photos.tiff_tags import (
    BITS,
    BLACK_IS_ZERO,
    CHANNELS,
    CMYK,
    COMPRESSION,
    DEFLATE,
    EXTRA_SAMPLES,
    HEIGHT,
    LAYERS,
    LAYOUT,
    LZW,
    MAKER_NOTE,
    NONE,
    OF_LEVELS,
    PHOTOMETRIC,
    PLANAR,
    PREDICTOR,
    PROFILE,
    RGB,
    ROWS_PER_STRIP,
    STRIP_LENGTHS,
    STRIP_OFFSETS,
    TILE_LENGTHS,
    TILE_OFFSETS,
    UNASSOCIATED,
    WIDTH,
    XMP,
    differences,
    false_levels,
    header,
    integers,
)
from dehaze.photos.xmp import upright_xmp, xmp_orientation

# Tags that an EXIF block cannot hold, and their names for notes.
_NOT_EXIF = {**OF_LEVELS, XMP: "", PROFILE: ""}
_NOT_EXIF |= {33723: "IPTC", 34377: "Photoshop's own"}
# Tags that lead to a directory of metadata, whatever their type.
_LEADING = (EXIF_DIRECTORY, GPS_DIRECTORY, INTEROPERABILITY_DIRECTORY, 400)
_DIRECTORY_KINDS = (13, 18)
_BIG_KINDS = (16, 17, 18)

# Bytes of samples in a strip; small, so that little room is lost where one does not fit.
_STRIP_BYTES = 2**18
_LIBDEFLATE_LEVEL = 6


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
    compression: int = DEFLATE
    extra_sample: int = UNASSOCIATED

    def encode(self, samples: Samples) -> bytes:
        """A TIFF of 8 or 16-bit samples: grey or RGB, and alpha."""
        data, offsets, lengths, rows = self._with_strips(samples)
        height, width, channels = samples.shape
        where = LONG8 if self.big else LONG
        own = {
            WIDTH: self._integers(LONG, width),
            HEIGHT: self._integers(LONG, height),
            BITS: self._integers(SHORT, *[samples.dtype.itemsize * 8] * channels),
            COMPRESSION: self._integers(SHORT, self._written_compression),
            PHOTOMETRIC: self._integers(SHORT, BLACK_IS_ZERO if channels < 3 else RGB),
            STRIP_OFFSETS: self._integers(where, *offsets),
            CHANNELS: self._integers(SHORT, channels),
            ROWS_PER_STRIP: self._integers(LONG, rows),
            STRIP_LENGTHS: self._integers(where, *lengths),
            PLANAR: self._integers(SHORT, 1),
        }
        if self._written_compression != NONE:
            own[PREDICTOR] = self._integers(SHORT, 2)
        if channels in (2, 4):
            own[EXTRA_SAMPLES] = self._integers(SHORT, self.extra_sample)
        kept = dict(self.values)
        if XMP in kept:
            packet = upright_xmp(kept[XMP].data, width=width, height=height)
            kept[XMP] = Value(kept[XMP].kind, len(packet), packet)
        data += bytes(len(data) % 2)
        first = len(data)
        data += directory_bytes(kept | own, first, self.order, big=self.big)
        data[: 16 if self.big else 8] = header(self.order, first, big=self.big)
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
    def _written_compression(self) -> int:
        """The source's where it can be written, else ZIP."""
        return self.compression if self.compression in (NONE, LZW) else DEFLATE

    def _with_strips(self, samples: Samples) -> tuple[bytearray, list[int], list[int], int]:
        """The file without its header and first directory: kept pieces, and strips between them.

        Returns:
            the bytes; offset and length of each strip; and the rows of a strip.
        """
        data = bytearray(16 if self.big else 8)
        gaps: list[tuple[int, int]] = []
        for start, piece in self.pieces:
            gaps.append((len(data), start))
            data += bytes(start - len(data)) + piece
        rows = min(len(samples), max(1, _STRIP_BYTES // samples[0].nbytes))
        offsets, lengths = [], []
        for strip in _strips(samples, rows, self._written_compression, self.order):
            offsets.append(_placed(data, gaps, strip))
            lengths.append(len(strip))
        return data, offsets, lengths, rows

    @property
    def metadata(self) -> Metadata:
        """See ``Container``."""
        exif, has_maker_note = self._exif()
        missed = [name for tag, name in _NOT_EXIF.items() if name and tag in self.values]
        missed += [
            f"tag {tag}"
            for tag, value in self.values.items()
            if tag not in (EXIF_DIRECTORY, GPS_DIRECTORY)
            and (tag in _LEADING or value.kind in (*_DIRECTORY_KINDS, *_BIG_KINDS))
        ]
        return Metadata(
            exif=exif,
            xmp=self.values[XMP].data if XMP in self.values else b"",
            profile=self.values[PROFILE].data if PROFILE in self.values else b"",
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
            container = container_of(structure, directory, DEFLATE, RGB, 8, ())
        bodies = ((XMP, 1, metadata.xmp), (PROFILE, 7, metadata.profile))
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
        data = bytearray(header(self.order, 0, big=self.big))
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
            has_maker_note |= MAKER_NOTE in directory.tags
            below = _exif_values(structure, directory)
            inner = structure.integer(directory, INTEROPERABILITY_DIRECTORY)
            interoperability = structure.directory(inner)
            if interoperability is not None:
                below[INTEROPERABILITY_DIRECTORY] = self._integers(LONG, len(block))
                block += self._directory(_exif_values(structure, interoperability), len(block))
            values[tag] = self._integers(LONG, len(block))
            block += self._directory(below, len(block))
        if not values:
            return b"", has_maker_note
        first = len(block)
        block += directory_bytes(values, first, self.order, big=False)
        block[:8] = header(self.order, first, big=False)
        return bytes(block), has_maker_note

    def _directory(self, values: Mapping[int, Value], start: int) -> bytes:
        """A directory of an EXIF block, up to an even place."""
        data = directory_bytes(values, start, self.order, big=False)
        return data + bytes(len(data) % 2)

    @property
    def _endian(self) -> Literal["little", "big"]:
        return "little" if self.order == "<" else "big"

    def _integers(self, kind: int, *numbers: int) -> Value:
        return integers(self.order, kind, *numbers)


def container_of(
    structure: Structure,
    directory: Directory,
    compression: int,
    photometric: int,
    bits: int,
    extras: Sequence[int],
) -> TiffContainer:
    """What stays true of a TIFF's first directory beside new pixels.

    Args:
        structure: of the file.
        directory: its first one.
        compression, photometric, bits: of the source's samples, as its tags state them.
        extras: what the channels beside the colours are, see ``TiffContainer.extra_sample``.
    """
    left_out = {*LAYOUT, LAYERS} - OF_LEVELS.keys() | false_levels(photometric, bits)
    if photometric == CMYK:
        left_out.add(PROFILE)
    values: dict[int, Value] = {}
    spans: list[tuple[int, int]] = []
    for entry in directory.entries:
        if entry.tag in left_out or entry.tag in values:
            continue
        if _leads(entry):
            below = list(directories_below(structure, entry, set()))
            if not below:
                continue
            for each in below:
                spans += _spans(each)
                spans += maker_values(structure, directory, each)[0]
        values[entry.tag] = Value(entry.kind, entry.count, structure.value(entry))
    orientation = structure.integer(directory, ORIENTATION)
    if ORIENTATION not in values and XMP in values:
        orientation = xmp_orientation(values[XMP].data) or 1
    return TiffContainer(
        structure.order,
        structure.big,
        values,
        _pieces(structure, spans),
        orientation if orientation in range(1, 9) else 1,
        compression,
        extras[0] if extras else UNASSOCIATED,
    )


def _exif_values(structure: Structure, directory: Directory) -> dict[int, Value]:
    """The values of a directory that an EXIF block can hold, but for maker notes."""
    return {
        entry.tag: Value(entry.kind, entry.count, structure.value(entry))
        for entry in directory.entries
        if entry.tag not in (MAKER_NOTE, *_LEADING) and entry.kind not in _BIG_KINDS
    }


def maker_values(
    structure: Structure, picture: Directory, details: Directory
) -> tuple[list[Span], list[Span]]:
    """Where the values of a maker note lie that are not in it: those kept, and those lost.

    Args:
        structure: of the file.
        picture: the directory of the picture, in place of whose pixels others are written.
        details: the directory that may hold the note.
    """
    note = details.tags.get(MAKER_NOTE)
    outside = [] if note is None else values_outside(structure, note)
    pixels = [
        (start, start + length)
        for places, lengths in ((STRIP_OFFSETS, STRIP_LENGTHS), (TILE_OFFSETS, TILE_LENGTHS))
        for start, length in zip(
            structure.integers(picture.tags.get(places)),
            structure.integers(picture.tags.get(lengths)),
            strict=False,
        )
    ]
    lost = [
        (start, end)
        for start, end in outside
        if any(start < last and first < end for first, last in pixels)
    ]
    return [span for span in outside if span not in lost], lost


def _leads(entry: Entry) -> bool:
    """Whether a tag leads to a directory of metadata."""
    return entry.tag in _LEADING or entry.kind in _DIRECTORY_KINDS


def directories_below(structure: Structure, leading: Entry, seen: set[int]) -> Iterator[Directory]:
    """The directories that a tag leads to, and all that they lead to, but for those seen."""
    for start in structure.integers(leading) if _leads(leading) else ():
        directory = None if start in seen else structure.directory(start)
        if directory is None:
            continue
        seen.add(start)
        yield directory
        for entry in directory.entries:
            yield from directories_below(structure, entry, seen)


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
    """Coded strips of ``rows`` rows each."""
    stored = np.dtype(f"{order}u{samples.dtype.itemsize}")
    for top in range(0, len(samples), rows):
        strip = samples[top : top + rows]
        if compression != NONE:
            strip = differences(strip, strip.shape[1])
        data = strip.astype(stored, copy=False).tobytes()
        if compression == DEFLATE:
            yield bytes(imagecodecs.deflate_encode(data, _LIBDEFLATE_LEVEL))
        elif compression == LZW:
            yield bytes(imagecodecs.lzw_encode(data))
        else:
            yield data


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
