"""Many small pictures on one sheet, each under its name."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dehaze.levels import from_levels, to_levels

Array = NDArray[np.float32]

_GAP = 6
_TEXT = 14


def sheet(
    rows: Sequence[Sequence[Array]],
    names: Sequence[Sequence[str]],
    *,
    tile_height: int = 128,
) -> Array:
    """Lays pictures of one shape out in rows.

    Args:
        rows: float32 (H, W, 3) RGB in [0, 1] each; rows may differ in length.
        names: a name for each picture, written above it, cut where it does not fit.
        tile_height: of each picture on the sheet, in pixels.

    Returns:
        float32 (H', W', 3) RGB in [0, 1], on white.

    Raises:
        ValueError: there is no picture, or the names are not as many.
    """
    if not rows or not all(rows) or [len(row) for row in rows] != [len(row) for row in names]:
        raise ValueError("a sheet needs pictures, and a name for each")
    height, width = rows[0][0].shape[:2]
    tile_width = max(1, round(width * tile_height / height))
    step = (tile_height + _TEXT + _GAP, tile_width + _GAP)
    size = (len(rows) * step[0] + _GAP, max(map(len, rows)) * step[1] + _GAP)
    canvas = Image.new("RGB", size[::-1], "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=_TEXT - 3)
    for i, (row, titles) in enumerate(zip(rows, names, strict=True)):
        for j, (picture, title) in enumerate(zip(row, titles, strict=True)):
            top, left = _GAP + i * step[0], _GAP + j * step[1]
            while title and pen.textlength(title, font=font) > tile_width:
                title = title[:-1]
            pen.text((left, top), title, fill="black", font=font)
            tile = cv2.resize(picture, (tile_width, tile_height), interpolation=cv2.INTER_AREA)
            pixels = to_levels(tile)
            canvas.paste(Image.fromarray(pixels), (left, top + _TEXT))
    return from_levels(np.asarray(canvas))
