"""Pictures of one colour and masks of their upper half, whose metrics are computed by hand."""

from __future__ import annotations

import numpy as np


def picture(value: int, side: int = 4) -> np.ndarray:
    """A square picture, uint8 (side, side, 3), of one grey."""
    return np.full((side, side, 3), value, np.uint8)


def half(side: int = 4) -> np.ndarray:
    """A square mask, (side, side): 1 in the upper half, 0 in the lower."""
    mask = np.zeros((side, side))
    mask[: side // 2] = 1.0
    return mask
