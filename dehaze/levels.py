"""Values in [0, 1] as the whole numbers that a picture's file holds, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def to_levels(values: NDArray[Any], bits: int = 8) -> NDArray[Any]:
    """The nearest levels, 0 to 2^bits - 1.

    Args:
        values: floating point, of any shape; what is outside [0, 1] is clipped.
        bits: 8 or 16, of a level.

    Returns:
        uint8 or uint16, of the same shape.

    Example:
        >>> to_levels(np.array([0.0, 0.5, 1.2])).tolist()
        [0, 128, 255]
    """
    levels = np.rint(np.clip(values, 0, 1) * np.float32(2**bits - 1))
    return levels.astype(np.uint8 if bits == 8 else np.uint16)


def from_levels(levels: NDArray[Any]) -> NDArray[np.float32]:
    """The values in [0, 1] that 8-bit or 16-bit levels stand for.

    Args:
        levels: uint8 or uint16, of any shape.

    Returns:
        float32, of the same shape.

    Example:
        >>> from_levels(np.array([0, 65535], dtype=np.uint16)).tolist()
        [0.0, 1.0]
    """
    return np.asarray(levels / np.float32(np.iinfo(levels.dtype).max), dtype=np.float32)
