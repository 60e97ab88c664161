"""EXIF, XMP and print density of a photo, true for the photo turned upright."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from PIL import Image

logger = logging.getLogger(__name__)
WIDTH, HEIGHT, ORIENTATION = 0x0100, 0x0101, 0x0112
EXIF_IFD = 0x8769
_PIXEL_WIDTH, _PIXEL_HEIGHT = 0xA002, 0xA003
# TIFF tags that say how the source's bytes lie, not what the photo shows: the writer makes its own.
# The colour profile and XMP travel beside EXIF, so their tags are here too.
_LAYOUT_TAGS = frozenset(
    {*range(254, 267), 273, *range(277, 282), 284, *range(288, 294), 317, *range(320, 348)}
    | {*range(512, 522), *range(529, 533), 700, 34675, 37724}
)
_XMP_ORIENTATION = re.compile(
    rb"(tiff:Orientation\s*=\s*[\"'])\d([\"'])|(<tiff:Orientation>)\d(</tiff:Orientation>)"
)


def upright_exif(exif: Image.Exif, *, size: tuple[int, int], notes: list[str]) -> bytes | None:
    try:
        for tag in _LAYOUT_TAGS.intersection(exif):
            del exif[tag]
        if ORIENTATION in exif:
            exif[ORIENTATION] = 1
        details = exif.get_ifd(EXIF_IFD) if EXIF_IFD in exif else {}
        for tag, length in zip((_PIXEL_WIDTH, _PIXEL_HEIGHT), size, strict=True):
            if tag in details:
                details[tag] = length
        return exif.tobytes() if len(exif) else None
    except Exception as error:
        # EXIF comes from countless writers; the photo is worth more than its damaged label.
        logger.debug("EXIF cannot be written again", exc_info=True)
        notes.append(f"its EXIF is damaged and is left out ({type(error).__name__})")
        return None


def upright_xmp(info: Mapping[Any, Any]) -> bytes | None:
    packet = info.get("xmp") or info.get("XML:com.adobe.xmp")
    if not packet:
        return None
    if isinstance(packet, str):
        packet = packet.encode()
    return _XMP_ORIENTATION.sub(rb"\g<1>\g<3>1\g<2>\g<4>", bytes(packet))


def dots_per_inch(info: Mapping[Any, Any]) -> tuple[float, float] | None:
    density = info.get("dpi")
    if density is None:
        return None
    horizontal, vertical = float(density[0]), float(density[1])
    return (horizontal, vertical) if min(horizontal, vertical) > 0 else None
