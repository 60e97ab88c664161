"""BMP: the source's print density and colour profile around newly coded pixels."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np

from dehaze.photos.photo import Decoded, Metadata, Samples, UnreadableError
from dehaze.photos.pillow import opened, samples_in

_FILE_HEADER = 14
# Lengths of the headers, which tell their kinds apart.
_V3, _V4, _V5 = 40, 108, 124
_NO_DENSITY = bytes(8)
# Colour space types of the header: an embedded profile, a linked one, and sRGB without a profile.
_EMBEDDED, _LINKED, _SRGB = b"DEBM", b"KNIL", b"BGRs"
_MASKS = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
_BIT_FIELDS = 3
# The kind of an embedded profile, and its intent, pictures (LCS_GM_IMAGES).
_WITH_PROFILE = _EMBEDDED + bytes(48) + struct.pack("<I", 4)


@dataclass(frozen=True)
class BmpContainer:
    """What a BMP has besides its pixels.

    Attributes:
        density: pixels a metre, across and down, as the header's eight bytes.
        colours: the header's part about colours (56 to 108 or 124), or empty.
        profile: the embedded colour profile, or empty.
    """

    density: bytes = _NO_DENSITY
    colours: bytes = b""
    profile: bytes = b""

    def encode(self, samples: Samples) -> bytes:
        """A BMP of 8-bit samples: grey, RGB or RGBA."""
        height, width, channels = samples.shape
        # BMP has no grey with alpha, so that is written in colour.
        if channels == 2:
            samples = samples[..., [0, 0, 0, 1]]
            channels = 4
        # Rows from the bottom up, each filled to a multiple of four bytes.
        rows = np.zeros((height, -(-width * channels // 4) * 4), np.uint8)
        for place, channel in enumerate({3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(channels, [0])):
            rows[:, place : width * channels : channels] = samples[::-1, :, channel]
        pixels = rows.tobytes()
        greys = range(256 if channels == 1 else 0)
        palette = b"".join(bytes([level, level, level, 0]) for level in greys)
        # The fifth version says for what purpose colours are converted, with or without a profile.
        fifth = self.profile or len(self.colours) > _V4 - 56
        length = _V5 if fifth else _V4 if self.colours or channels == 4 else _V3
        begin = _FILE_HEADER + length + len(palette)
        header = struct.pack(
            "<IiiHHII8sII",
            length,
            width,
            height,
            1,
            8 * channels,
            _BIT_FIELDS if channels == 4 else 0,
            len(pixels),
            self.density,
            256 if channels == 1 else 0,
            0,
        )
        if length > _V3:
            colours = (self.colours or _SRGB).ljust(_V5 - 56, b"\0")
            if self.profile:
                behind = struct.pack("<II", length + len(palette) + len(pixels), len(self.profile))
                colours = colours[:56] + behind + colours[64:]
            header += (_MASKS if channels == 4 else bytes(16)) + colours
        body = header[:length] + palette + pixels + self.profile
        return struct.pack("<2sIII", b"BM", _FILE_HEADER + len(body), 0, begin) + body

    @property
    def metadata(self) -> Metadata:
        """See ``Container``."""
        return Metadata(profile=self.profile)

    @classmethod
    def labelled(cls, metadata: Metadata) -> BmpContainer:
        """A container with the colour profile; BMP has no place for more."""
        return cls(colours=_WITH_PROFILE if metadata.profile else b"", profile=metadata.profile)


@dataclass(frozen=True)
class BmpSource:
    """A BMP file, its header read."""

    width: int
    height: int
    data: bytes = field(repr=False)
    container: BmpContainer
    notes: tuple[str, ...] = ()
    orientation = 1
    premultiplied = False

    def decode(self) -> Decoded:
        """The samples; see ``Source``."""
        try:
            samples = samples_in(self.data, "BMP")
        except ValueError as error:
            raise _unsupported(error) from error
        return Decoded(samples, self.container, self.notes)


def open_bmp(data: bytes) -> BmpSource:
    """Read the header of a BMP.

    Raises:
        UnreadableError: of a kind that cannot be read.
        Exception: any error of the decoder, for damaged data.
    """
    try:
        with opened(data, "BMP") as image:
            width, height = image.size
    except OSError as error:
        if "nsupported" not in str(error):
            raise
        raise _unsupported(error) from error
    length = int.from_bytes(data[14:18], "little")
    header = data[14 : 14 + length]
    density = header[24:32] if length >= _V3 else _NO_DENSITY
    colours = header[56:] if length in (_V4, _V5) else b""
    profile = b""
    notes = []
    if length == _V5 and colours[:4] == _EMBEDDED:
        place, size = struct.unpack("<II", header[112:120])
        profile = data[14 + place : 14 + place + size]
    elif length == _V5 and colours[:4] == _LINKED:
        colours = b""
        notes.append("its colour profile, a file of its own, is left out")
    end = int.from_bytes(data[2:6], "little")
    # Some writers leave the length of the file 0, or state that of its headers.
    if int.from_bytes(data[10:14], "little") < end < len(data) and data[end:].strip(b"\0"):
        notes.append(f"{len(data) - end} bytes behind its end are left out")
    if _has_fourth_bytes(data, length, width * height):
        notes.append("the fourth byte of its pixels, to which BMP gives no meaning, is left out")
    container = BmpContainer(density.ljust(8, b"\0"), colours, profile)
    return BmpSource(width, height, data, container, tuple(notes))


def _has_fourth_bytes(data: bytes, length: int, pixels: int) -> bool:
    """Whether pixels of 32 bits without bit fields differ in the byte that is not a colour."""
    if length < _V3 or struct.unpack("<HI", data[28:34]) != (32, 0):
        return False
    start = int.from_bytes(data[10:14], "little")
    fourth = np.frombuffer(data[start : start + 4 * pixels], np.uint8)[3::4]
    return fourth.size > 0 and bool((fourth != fourth[0]).any())


def _unsupported(error: Exception) -> UnreadableError:
    return UnreadableError(
        f"is a BMP of a kind that is not supported ({error})",
        "save it as a BMP of 24 bits, or as PNG",
    )
