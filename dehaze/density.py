"""How dense the haze is: the veil that the model found, held against the photo's darkest pixels.

At its working size the model sees areas, not pixels: a shadow between leaves is averaged away, and
with it the best witness of how much light the haze itself sends. Where nothing of the scene is
black, I >= A (1 - t) in every channel, so the darkest pixels bound the veil from above, and where
something nearly is, they name it. The model knows where the haze is; they know how much.

Source of the bound: He, Sun and Tang, "Single Image Haze Removal Using Dark Channel Prior",
CVPR 2009, eq. 10. That it scales a whole veil by one number is this project's own.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

# The darkest pixel is looked for within this share of the short side.
_WINDOW = 0.03
# The share of the windows that may come out below black.
_QUANTILE = 0.05
# s = rho^k, chosen on haze rendered over BSDS500's validation photos: docs/quality.md.
EXPONENT = 0.8
_RATIO_BOUNDS = (0.02, 2.5)


def veil_ratio(photo: Array, transmission: Array, airlight: Array) -> float:
    """rho: the veil that the darkest pixels allow, relative to the veil that was found.

    With D the smallest I / A of a pixel's channels and neighbours, rho is the 5 % quantile of
    D / (1 - t): where it is 1, the veil that was found leaves the darkest pixels black.

    Args:
        photo: I, float32 (H, W, 3) in [0, 1].
        transmission: t, float32 (H, W) in (0, 1].
        airlight: A, float32 (3,) in [0, 1].

    Returns:
        rho, 0 or above.

    Raises:
        ValueError: photo and transmission are of different size.
    """
    if photo.shape[:2] != transmission.shape:
        raise ValueError(
            f"the photo is {photo.shape[:2]} and the transmission {transmission.shape}"
        )
    side = 2 * round(_WINDOW * min(photo.shape[:2])) + 1
    # A channel without airlight says nothing of the veil; a thin veil nothing of its density.
    relative = (photo / np.maximum(airlight, 0.05)).min(2)
    darkest: NDArray[Any] = cv2.erode(relative, np.ones((side, side), np.uint8))
    return float(np.quantile(darkest / np.maximum(1.0 - transmission, 0.02), _QUANTILE))


def veil_scale(photo: Array, transmission: Array, airlight: Array, strength: float = 1.0) -> float:
    """s, by which the veil 1 - t is to be multiplied.

    s = rho^k: more than 1 where even the darkest pixels stay grey, less than 1 where the veil
    would push them below black.

    Args:
        photo: I, float32 (H, W, 3) in [0, 1].
        transmission: t, float32 (H, W) in (0, 1], found at ``strength``.
        airlight: A, float32 (3,) in [0, 1].
        strength: the share of the veil that was asked for; the rest is meant to stay.
    """
    if strength <= 0.0:
        return 1.0
    ratio = veil_ratio(photo, transmission, airlight) * strength
    return float(np.clip(ratio, *_RATIO_BOUNDS) ** EXPONENT)
