"""EXIF of a photo turned upright: tags about the pixels are corrected in place.

Maker notes refer to places in the block, so nothing in it may move.
"""

from __future__ import annotations

from dehaze.photos.ifd import (
    EXIF_DIRECTORY,
    RATIONAL,
    Directory,
    Structure,
    put_integer,
)

ORIENTATION = 0x0112
X_RESOLUTION, Y_RESOLUTION = 0x011A, 0x011B
_WIDTH_TAGS, _HEIGHT_TAGS = (0x0100, 0xA002), (0x0101, 0xA003)


def orientation_of(exif: bytes) -> int | None:
    """The orientation (1 to 8) that an EXIF block states, or None if it states none."""
    try:
        structure = Structure(exif)
    except ValueError:
        return None
    directory = structure.directory(structure.first)
    if directory is None or ORIENTATION not in directory.tags:
        return None
    value = structure.integer(directory, ORIENTATION)
    return value if 1 <= value <= 8 else 1


def upright_exif(exif: bytes, *, width: int, height: int, orientation: int) -> bytes:
    """An EXIF block for a photo that was turned upright.

    The orientation becomes 1, and the pixel sizes those of the photo. The pointer to the thumbnail,
    which shows the hazy photo, becomes 0. Damaged data come back as they are.

    Args:
        exif: the block, from its byte order mark on.
        width: of the upright photo, in pixels.
        height: of the upright photo, in pixels.
        orientation: that the photo was stored in, 1 to 8.
    """
    try:
        structure = Structure(exif)
    except ValueError:
        return exif
    directory = structure.directory(structure.first)
    if directory is None:
        return exif
    data = bytearray(exif)
    make_upright(data, structure, directory, width=width, height=height, orientation=orientation)
    if directory.pointer is not None:
        length = 8 if structure.big else 4
        data[directory.pointer : directory.pointer + length] = bytes(length)
    return bytes(data)


def make_upright(
    data: bytearray,
    structure: Structure,
    directory: Directory,
    *,
    width: int,
    height: int,
    orientation: int,
) -> None:
    """Change the orientation, pixel sizes and print density in a copy of the structure's data."""
    details = structure.directory(structure.integer(directory, EXIF_DIRECTORY))
    for each in (directory, details):
        for entry in each.entries if each is not None else ():
            if entry.tag in _WIDTH_TAGS:
                put_integer(data, structure.order, entry, width)
            elif entry.tag in _HEIGHT_TAGS:
                put_integer(data, structure.order, entry, height)
            elif entry.tag == ORIENTATION and each is directory:
                put_integer(data, structure.order, entry, 1)
    across, down = directory.tags.get(X_RESOLUTION), directory.tags.get(Y_RESOLUTION)
    if orientation < 5 or across is None or down is None:
        return
    if (across.kind, across.count) == (down.kind, down.count) == (RATIONAL, 1):
        # Both are read before either is written: the structure may be that of these very data.
        turned = structure.value(down), structure.value(across)
        data[across.start : across.end], data[down.start : down.end] = turned
