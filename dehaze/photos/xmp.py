"""XMP packets of a photo turned upright, without mention of pictures behind it.

Only what has become wrong is changed; all other bytes of a packet stay.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from xml.parsers import expat

_TIFF = "http://ns.adobe.com/tiff/1.0/"
_EXIF = "http://ns.adobe.com/exif/1.0/"
_CAMERA = "http://ns.google.com/photos/1.0/camera/"
# Prefixes that packets use without declaring them.
_USUAL = {
    "tiff": _TIFF,
    "exif": _EXIF,
    "GCamera": _CAMERA,
    "hdrgm": "http://ns.adobe.com/hdr-gain-map/1.0/",
    "Container": "http://ns.google.com/photos/1.0/container/",
}
# Properties that promise a picture or a clip behind the photo, by namespace or by the beginning of
# the name.
_PROMISES = {
    "http://ns.adobe.com/hdr-gain-map/1.0/": "",
    "http://ns.apple.com/HDRGainMap/1.0/": "",
    "http://ns.google.com/photos/1.0/container/": "",
    "http://ns.google.com/photos/dd/1.0/device/": "",
    _CAMERA: "Micro|Motion",
}
_SIZES = {(_TIFF, "ImageWidth"): 0, (_TIFF, "ImageLength"): 1}
_SIZES |= {(_EXIF, "PixelXDimension"): 0, (_EXIF, "PixelYDimension"): 1}

_TAG_END = re.compile(rb"""<[^<>"']*(?:"[^"]*"[^<>"']*|'[^']*'[^<>"']*)*>""")
_ATTRIBUTE = re.compile(rb"""\s+([\w.-]+):([\w.-]+)\s*=\s*("[^"]*"|'[^']*')""")
_ORIENTATION = re.compile(rb"""tiff:Orientation(?:\s*=\s*["']|>)\s*([1-8])""")


@dataclass(frozen=True)
class _Property:
    """A property of a packet: its name, where it lies with all its markup, and where its value."""

    namespace: str
    name: str
    start: int
    end: int
    value: tuple[int, int]


def xmp_orientation(packet: bytes) -> int | None:
    """The orientation (1 to 8) that a packet states, or None if it states none."""
    found = _ORIENTATION.search(_recoded(packet, _codec(packet), "utf-8"))
    return int(found[1]) if found else None


def promises_of(packet: bytes) -> frozenset[str]:
    """The namespaces of the properties that promise something behind the photo."""
    found = _properties(_recoded(packet, _codec(packet), "utf-8"))
    return frozenset(each.namespace for each in found if _is_promise(each))


def notes_on_promises(packet: bytes) -> tuple[str, ...]:
    """A note if a packet promises something that its file does not hold."""
    if not promises_of(packet):
        return ()
    return ("its XMP no longer promises a gain map, a film or pictures that its file lacks",)


def upright_xmp(packet: bytes, *, width: int, height: int) -> bytes:
    """A packet for a photo turned upright, with nothing behind it in the file.

    The orientation becomes 1, pixel sizes become the photo's, and properties that promise a gain
    map, a film or further pictures are taken out.

    Args:
        packet: the packet.
        width: of the upright photo, in pixels.
        height: of the upright photo, in pixels.
    """
    codec = _codec(packet)
    upright = _upright(_recoded(packet, codec, "utf-8"), width, height)
    return _recoded(upright, "utf-8", codec)


def _upright(packet: bytes, width: int, height: int) -> bytes:
    found = _properties(packet)
    if not found:
        # A packet that is not well-formed: only the orientation, which other readers look for, by
        # its pattern.
        return _ORIENTATION.sub(lambda match: match[0][:-1] + b"1", packet)
    changes: list[tuple[int, int, bytes]] = []
    for each in found:
        if _is_promise(each):
            changes.append((each.start, each.end, b""))
        elif (each.namespace, each.name) == (_TIFF, "Orientation"):
            changes.append((*each.value, b"1"))
        elif (each.namespace, each.name) in _SIZES:
            size = (width, height)[_SIZES[each.namespace, each.name]]
            changes.append((*each.value, str(size).encode()))
    pieces: list[bytes] = []
    reached = 0
    for start, end, new in sorted(changes, key=lambda change: (change[0], -change[1])):
        # A promise inside of another one goes with it.
        if start >= reached:
            pieces += [packet[reached:start], new]
            reached = end
    return b"".join([*pieces, packet[reached:]])


def _codec(packet: bytes) -> str:
    """The encoding of a packet, which some programs write in 16 bits a character."""
    marks = {"utf-16-le": (b"\xff\xfe", b"<\0"), "utf-16-be": (b"\xfe\xff", b"\0<")}
    whole = len(packet) % 2 == 0
    return next((codec for codec in marks if whole and packet.startswith(marks[codec])), "utf-8")


def _recoded(packet: bytes, old: str, new: str) -> bytes:
    """A packet in another encoding; halves of characters come back as they are."""
    if old == new:
        return packet
    return packet.decode(old, "surrogatepass").encode(new, "surrogatepass")


def _is_promise(each: _Property) -> bool:
    names = _PROMISES.get(each.namespace)
    return names is not None and re.match(names, each.name) is not None


def _properties(packet: bytes) -> list[_Property]:
    """Attributes and elements of a packet that carry a prefix; none if it is not well-formed."""
    reader = _Reader(packet.rstrip(b"\0"))
    try:
        return reader.read()
    except expat.ExpatError:
        return []


class _Reader:
    """Finds the properties of a packet and where they lie."""

    def __init__(self, packet: bytes) -> None:
        self._packet = packet
        self._prefixes = dict(_USUAL)
        self._open: list[tuple[str, int, int]] = []
        self._found: list[_Property] = []
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end

    def read(self) -> list[_Property]:
        self._parser.Parse(self._packet, True)
        return self._found

    def _start(self, name: str, attributes: Mapping[str, str]) -> None:
        for attribute, value in attributes.items():
            if attribute.startswith("xmlns:"):
                self._prefixes[attribute.removeprefix("xmlns:")] = value
        start = self._parser.CurrentByteIndex
        tag = _TAG_END.match(self._packet, start)
        end = tag.end() if tag else start
        self._open.append((name, start, end))
        for found in _ATTRIBUTE.finditer(self._packet, start, end):
            inside = found.start(3) + 1, found.end(3) - 1
            self._add(found[1].decode(), found[2].decode(), found.span(), inside)

    def _end(self, name: str) -> None:
        _, start, begun = self._open.pop()
        closing = self._parser.CurrentByteIndex
        end = max(begun, self._packet.find(b">", closing) + 1)
        prefix, _, local = name.rpartition(":")
        self._add(prefix, local, (start, end), (begun, max(begun, closing)))

    def _add(self, prefix: str, name: str, place: tuple[int, int], value: tuple[int, int]) -> None:
        namespace = self._prefixes.get(prefix)
        if namespace is not None:
            self._found.append(_Property(namespace, name, *place, value))
