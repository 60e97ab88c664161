"""Values of a maker note that lie outside of it, elsewhere in a TIFF file.

The maker notes of many cameras are a directory whose offsets count from the header of the file. A
camera writes the values into the note itself, but programs that move notes, and some cameras, leave
them elsewhere. Source: the list of makers of exiftool's MakerNotes.pm, by what it documents.
"""

from __future__ import annotations

import copy
import struct
from collections.abc import Iterator

from dehaze.photos.ifd import Entry, Structure

Span = tuple[int, int]

# The bytes before the directory, by what a note begins with; none where it begins with the
# directory itself, as Canon's and Minolta's do. The notes of other makers count from themselves.
_BEFORE = {
    b"OLYMP\0": 8,
    b"EPSON\0": 8,
    b"SANYO\0": 8,
    b"CAMER\0": 8,
    b"MINOL\0": 8,
    b"Nikon\0\1": 8,
    b"Ricoh\0": 8,
    b"QVC\0": 6,
    b"AOC\0": 6,
    b"Panasonic\0": 12,
    b"SONY DSC \0": 12,
    b"SONY CAM \0": 12,
}
_MOST_ENTRIES = 512
_LAST_KIND = 13


def values_outside(structure: Structure, note: Entry) -> list[Span]:
    """Where the values of a maker note lie that are not in it: their beginnings and ends.

    Args:
        structure: of the file.
        note: its tag; none of its values is known where it is no directory of such offsets.
    """
    if structure.big:
        return []
    begun = structure.value(note)
    before = next((length for mark, length in _BEFORE.items() if begun.startswith(mark)), 0)
    for reader in _readers(structure):
        if _is_directory(reader, note.start + before, note.end):
            directory = reader.directory(note.start + before)
            entries = () if directory is None else directory.entries
            return [
                (entry.start, entry.end)
                for entry in entries
                if entry.start < note.start or entry.end > note.end
            ]
    return []


def _readers(structure: Structure) -> Iterator[Structure]:
    """The structure in the file's byte order, and in the other one, which some notes have."""
    yield structure
    other = copy.copy(structure)
    other.order = "<" if structure.order == ">" else ">"
    yield other


def _is_directory(reader: Structure, start: int, end: int) -> bool:
    """Whether a directory of tags of known types lies between two places."""
    if start + 2 > end:
        return False
    (count,) = struct.unpack_from(f"{reader.order}H", reader.data, start)
    if not 1 <= count <= _MOST_ENTRIES or start + 2 + 12 * count > end:
        return False
    kinds = [
        struct.unpack_from(f"{reader.order}H", reader.data, start + 4 + 12 * index)[0]
        for index in range(count)
    ]
    return all(1 <= kind <= _LAST_KIND for kind in kinds)
