"""How light a pixel looks: Y' of ITU-R BT.601, as photo files, OpenCV and televisions see grey."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Of red, green and blue. ITU-R BT.601-7, section 2.5.1.
LUMA_WEIGHTS = (0.299, 0.587, 0.114)


def luma(picture: NDArray[Any]) -> NDArray[Any]:
    """The luma of every pixel: 0.299 R + 0.587 G + 0.114 B.

    Args:
        picture: floating-point (H, W, 3) RGB on any scale.

    Returns:
        (H, W), of the picture's data type and on its scale.

    Example:
        >>> red = np.array([[[1.0, 0.0, 0.0]]])
        >>> float(luma(red)[0, 0])
        0.299
    """
    return np.asarray(picture @ np.array(LUMA_WEIGHTS, dtype=picture.dtype))
