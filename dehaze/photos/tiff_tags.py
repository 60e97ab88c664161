"""What reading and writing TIFF share: numbers of tags and values, and pieces of the format."""

from __future__ import annotations

import struct

from dehaze.photos.ifd import LONG, LONG8, SHORT, Value
from dehaze.photos.photo import Samples

SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 254, 256, 257, 258, 259, 262
STRIP_OFFSETS, CHANNELS, ROWS_PER_STRIP, STRIP_LENGTHS = 273, 277, 278, 279
PLANAR, TRANSFER, PREDICTOR, COLOUR_MAP, REFERENCE = 284, 301, 317, 320, 532
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_LENGTHS = 322, 323, 324, 325
SUB_DIRECTORIES, INK_SET, EXTRA_SAMPLES, SAMPLE_FORMAT = 330, 332, 338, 339
XMP, PROFILE, LAYERS, DNG = 700, 34675, 37724, 50706
MAKER_NOTE = 37500
# Tags of how pixels lie in the file, which the writer makes anew.
LAYOUT = frozenset(
    {*range(254, 267), 273, *range(277, 282), 284, *range(288, 294), 317, *range(320, 348)}
    | {*range(512, 522), *range(529, 533)}
)
# Tags about the levels of samples, which stay true of samples of the same kind.
OF_LEVELS = {290: "GrayResponseUnit", 291: "GrayResponseCurve", TRANSFER: "TransferFunction"}
OF_LEVELS |= {342: "TransferRange", REFERENCE: "ReferenceBlackWhite"}
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}
NONE, LZW, OLD_JPEG, JPEG, DEFLATE = 1, 5, 6, 7, 8
ASSOCIATED, UNASSOCIATED = 1, 2


def false_levels(photometric: int, bits: int) -> set[int]:
    """Which of ``OF_LEVELS`` are not true of the result's samples, for a source of this kind."""
    if photometric in (BLACK_IS_ZERO, RGB) and bits in (8, 16):
        return set()
    # TIFF 6.0 defines the transfer function of YCbCr for the RGB that it becomes.
    return OF_LEVELS.keys() - ({TRANSFER} if photometric == YCBCR else set())


def integers(order: str, kind: int, *numbers: int) -> Value:
    """Whole numbers as a tag's value, in this byte order and of this type."""
    letter = {SHORT: "H", LONG: "I", LONG8: "Q"}[kind]
    return Value(kind, len(numbers), struct.pack(f"{order}{len(numbers)}{letter}", *numbers))


def header(order: str, first: int, *, big: bool) -> bytes:
    """The header of a file whose first directory begins at ``first``."""
    mark = b"II" if order == "<" else b"MM"
    if big:
        return mark + struct.pack(f"{order}HHHQ", 43, 8, 0, first)
    return mark + struct.pack(f"{order}HI", 42, first)


def differences(samples: Samples, width: int) -> Samples:
    """Each sample minus the one to its left, in strips or tiles of this width."""
    changes = samples.copy()
    changes[:, 1:] -= samples[:, :-1]
    changes[:, ::width] = samples[:, ::width]
    return changes
