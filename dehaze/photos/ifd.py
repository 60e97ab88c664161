"""The directories of a TIFF file, which are also those of an EXIF block (TIFF 6.0, section 2).

Reading does not fail for damaged entries; values outside of the data are left out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

EXIF_DIRECTORY, GPS_DIRECTORY, INTEROPERABILITY_DIRECTORY = 0x8769, 0x8825, 0xA005

# Bytes of one value, by the type's number. 16, 17 and 18 are BigTIFF's, 129 (UTF-8) is EXIF 3.0's.
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_BYTES |= {16: 8, 17: 8, 18: 8, 129: 1}
SHORT, LONG, RATIONAL, LONG8 = 3, 4, 5, 16
# The letters by which struct names the types that hold whole numbers.
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}


@dataclass(frozen=True)
class Entry:
    """One tag of a directory.

    Attributes:
        tag: its number.
        kind: the number of its type.
        count: how many values it has.
        start: where its value begins, in bytes from the start of the data.
        place: where the entry itself begins.
    """

    tag: int
    kind: int
    count: int
    start: int
    place: int

    @property
    def end(self) -> int:
        """Where its value ends."""
        return self.start + self.count * _BYTES[self.kind]


@dataclass(frozen=True)
class Directory:
    """One directory.

    Attributes:
        start: where it begins.
        end: where it ends, the pointer to the next directory included.
        entries: its tags that can be read, in their order.
        unread: numbers of the other tags: of an unknown type, or their values outside of the data.
        pointer: where the pointer to the next directory lies, or None if the data end before.
        following: where the next directory begins, 0 after the last one.
    """

    start: int
    end: int
    entries: tuple[Entry, ...]
    unread: tuple[int, ...]
    pointer: int | None
    following: int

    @cached_property
    def tags(self) -> dict[int, Entry]:
        """Its tags by their numbers; of equal ones, the first."""
        return {entry.tag: entry for entry in reversed(self.entries)}


class Structure:
    """Reads the directories of TIFF data, of either byte order, classic or BigTIFF."""

    def __init__(self, data: bytes | bytearray) -> None:
        """Read the header.

        Raises:
            ValueError: not TIFF data.
        """
        self.data = data
        try:
            self.order = {b"II": "<", b"MM": ">"}[bytes(data[:2])]
            (version,) = struct.unpack_from(f"{self.order}H", data, 2)
            self.big = {42: False, 43: True}[version]
            self.first: int = self._unpack("Q" if self.big else "I", 8 if self.big else 4)
        except (KeyError, struct.error) as error:
            raise ValueError("not TIFF data") from error

    def _unpack(self, letter: str, place: int) -> int:
        return int(struct.unpack_from(self.order + letter, self.data, place)[0])

    def directory(self, start: int) -> Directory | None:
        """The directory that begins at a place, or None if there is none."""
        counter, size, offset = ("Q", 20, "Q") if self.big else ("H", 12, "I")
        first = start + struct.calcsize(counter)
        if start < 8 or first > len(self.data):
            return None
        count = self._unpack(counter, start)
        whole = min(count, (len(self.data) - first) // size)
        entries: list[Entry] = []
        unread: list[int] = []
        for place in range(first, first + whole * size, size):
            entry = self._entry(place)
            if entry is None:
                unread.append(self._unpack("H", place))
            else:
                entries.append(entry)
        pointer: int | None = first + count * size
        end = first + whole * size
        following = 0
        if whole < count or pointer is None or pointer + struct.calcsize(offset) > len(self.data):
            pointer = None
        else:
            following = self._unpack(offset, pointer)
            end = pointer + struct.calcsize(offset)
        return Directory(start, end, tuple(entries), tuple(unread), pointer, following)

    def _entry(self, place: int) -> Entry | None:
        letter, inline = ("Q", 8) if self.big else ("I", 4)
        tag, kind = self._unpack("H", place), self._unpack("H", place + 2)
        if kind not in _BYTES:
            return None
        count, start = self._unpack(letter, place + 4), place + 4 + inline
        if count * _BYTES[kind] > inline:
            start = self._unpack(letter, start)
        entry = Entry(tag, kind, count, start, place)
        return entry if entry.end <= len(self.data) else None

    def chain(self) -> Iterator[Directory]:
        """The directories that follow one another from the header on."""
        seen: set[int] = set()
        place = self.first
        while place and place not in seen:
            seen.add(place)
            directory = self.directory(place)
            if directory is None:
                return
            yield directory
            place = directory.following

    def value(self, entry: Entry) -> bytes:
        """The bytes of a tag's value."""
        return bytes(self.data[entry.start : entry.end])

    def integers(self, entry: Entry | None) -> tuple[int, ...]:
        """The values of a tag of whole numbers; none if it is missing or of another type."""
        if entry is None or entry.kind not in _INTEGERS:
            return ()
        layout = f"{self.order}{entry.count}{_INTEGERS[entry.kind]}"
        return struct.unpack_from(layout, self.data, entry.start)

    def integer(self, directory: Directory, tag: int, default: int = 0) -> int:
        """The first value of a tag of whole numbers."""
        return next(iter(self.integers(directory.tags.get(tag))), default)


def put_integer(data: bytearray, order: str, entry: Entry, value: int) -> None:
    """Write the first of a tag's whole numbers in place, where its type has room for it."""
    if entry.count < 1 or entry.kind not in _INTEGERS:
        return
    # A size that is too large for its type stays as it was.
    with suppress(struct.error):
        struct.pack_into(order + _INTEGERS[entry.kind], data, entry.start, value)


@dataclass(frozen=True)
class Value:
    """The value of a tag that is to be written.

    Attributes:
        kind: the number of its type.
        count: how many values it has.
        data: their bytes, in the byte order of the file.
    """

    kind: int
    count: int
    data: bytes


def directory_bytes(values: Mapping[int, Value], start: int, order: str, *, big: bool) -> bytes:
    """A last directory and, behind it, the values that do not fit in it.

    Args:
        values: of its tags.
        start: where it will begin in the file, an even number.
        order: of the bytes, as struct writes it.
        big: with offsets of 64 bits.
    """
    counter, offset = ("Q", "Q") if big else ("H", "I")
    inline = struct.calcsize(offset)
    table = struct.calcsize(f"={counter}") + len(values) * (4 + 2 * inline) + inline
    entries, behind = [struct.pack(order + counter, len(values))], bytearray()
    for tag, value in sorted(values.items()):
        entries.append(struct.pack(f"{order}HH{offset}", tag, value.kind, value.count))
        if len(value.data) <= inline:
            entries.append(value.data.ljust(inline, b"\0"))
        else:
            behind += bytes((table + len(behind)) % 2)
            entries.append(struct.pack(order + offset, start + table + len(behind)))
            behind += value.data
    return b"".join([*entries, bytes(inline), behind])
