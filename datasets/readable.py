"""Which photos can be evaluated, found before the first of them is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dehaze.datasets.decoding import read_rgb
from dehaze.datasets.registry import DatasetNotFoundError
from dehaze.errors import DehazeError
from dehaze.levels import from_levels

Check = Callable[[Path, NDArray[np.float32]], None]
"""Refuses a photo, float32 (H, W, 3) in [0, 1], by a ``DehazeError``."""


def split_readable(
    files: Iterable[Path], check: Check | None = None
) -> tuple[list[Path], list[str]]:
    """The files that can be evaluated, and one line about each of the others.

    Every file is decoded, so that a broken one ends no evaluation halfway.

    Args:
        files: of photos.
        check: called with each file and its pixels; None takes every photo that decodes.

    Raises:
        DatasetNotFoundError: there are files, and none can be evaluated.
    """
    readable, left_out = [], []
    for file in files:
        try:
            pixels = from_levels(read_rgb(file).pixels)
            if check is not None:
                check(file, pixels)
        except DehazeError as error:
            left_out.append(str(error))
        else:
            readable.append(file)
    if left_out and not readable:
        raise DatasetNotFoundError(f"no photo can be evaluated: {left_out[0]}")
    return readable, left_out
