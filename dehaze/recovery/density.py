"""How dense the haze is: the veil that the model found, held against the photo's darkest pixels.

At its working size the model sees areas, not pixels: a shadow between leaves is averaged away, and
with it the best witness of how much light the haze itself sends. Where nothing of the scene is
black, I >= A (1 - t) in every channel, so the darkest pixels bound the veil from above, and where
something nearly is, they name it. The model knows a white wall from haze, and they do not; they
know shadows, and it does not. So the veil is a mean of what the two say.

Source of the bound: He, Sun and Tang, "Single Image Haze Removal Using Dark Channel Prior",
CVPR 2009, eq. 10. The mean, and the numbers that scale a region and a whole veil, are this
project's own.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

# The darkest pixel is looked for within this share of the short side.
_WINDOW = 0.03
# The share of the windows that may come out below black.
_QUANTILE = 0.05
# How far a region reaches, likewise: far enough to hold something dark.
_REGION = 0.225
# w, u and k, chosen on haze rendered over BSDS500's validation photos: docs/notes/what-helped.md.
SHARE = 0.4
REGION_SHARE = 0.2
EXPONENT = 0.8
_REGION_BOUNDS = (0.05, 3.0)
_RATIO_BOUNDS = (0.02, 2.5)
_THINNEST = 0.005
# A thinner veil says nothing of its density.
_THIN = 0.02


def darkest_pixels(photo: Array, airlight: Array) -> Array:
    """D, the densest veil that is possible: the smallest I / A of channels and neighbours.

    Args:
        photo: I, float32 (H, W, 3) in [0, 1].
        airlight: A, float32 (3,) in [0, 1].

    Returns:
        D, float32 (H, W), 0 or above.
    """
    # A channel without airlight says nothing of the veil.
    relative = (photo / np.maximum(airlight, 0.05)).min(2)
    return minimum_filter(relative, _side(_WINDOW, relative))


def region_ratio(veil: Array, darkest: Array) -> Array:
    """q, the smallest D / v of each pixel's region, smooth from region to region.

    Where q is below 1 the model found more veil than its region's darkest pixels let through; where
    it is above, nothing in the region is as dark as it would be behind the veil that was found.

    Args:
        veil: v, float32 (H, W), positive.
        darkest: D of ``darkest_pixels``, float32 (H, W).

    Returns:
        float32 (H, W), positive.
    """
    side = _side(_REGION, veil)
    ratio = np.asarray(darkest / np.maximum(veil, _THIN), dtype=np.float32)
    least = minimum_filter(ratio, side)
    return np.clip(cv2.blur(least, (side, side)), *_REGION_BOUNDS)


def _side(reach: float, values: Array) -> int:
    """Odd side length, in pixels, of a window whose half-width is this share of the short side."""
    return 2 * round(reach * min(values.shape)) + 1


def minimum_filter(values: Array, side: int) -> Array:
    """The smallest value within side x side pixels, float32 (H, W)."""
    # OpenCV's erosion takes what lies outside as infinite: windows are cut off at the border.
    return np.asarray(cv2.erode(values, np.ones((side, side), np.uint8)), dtype=np.float32)


def weigh_veil(
    veil: Array,
    darkest: Array,
    smoothed: Array,
    *,
    share: float = SHARE,
    region_share: float = REGION_SHARE,
    exponent: float = EXPONENT,
) -> Array:
    """The veil that the model and the darkest pixels name together.

    With v = 1 - t as the model found it, x = v^(1 - w) D^w q^u is their mean at each pixel, held
    against its region by q of ``region_ratio``; and the whole of it is scaled by s = rho^k. rho is
    the 5 % quantile of D / x: where it is 1, the darkest pixels come out black; s > 1 where even
    they stay grey, s < 1 where they would fall below black.

    Args:
        veil: v, float32 (H, W) in [0, 1].
        darkest: D of ``darkest_pixels``, float32 (H, W).
        smoothed: D with the photo's edges instead of its windows' ones, float32 (H, W).
        share: w, in [0, 1].
        region_share: u, 0 to leave regions alone.
        exponent: k, 0 for no scaling of the whole.

    Returns:
        s x, float32 (H, W), positive; it may exceed 1.

    Raises:
        ValueError: the three are of different size.
    """
    if not veil.shape == darkest.shape == smoothed.shape:
        raise ValueError(
            f"the veil is {veil.shape}, the darkest pixels {darkest.shape} and {smoothed.shape}"
        )
    found = np.maximum(veil, _THINNEST)
    weighed = found ** (1.0 - share) * np.maximum(smoothed, _THINNEST) ** share
    weighed *= region_ratio(found, darkest) ** region_share
    ratio = float(np.quantile(darkest / np.maximum(weighed, _THIN), _QUANTILE))
    scale = float(np.clip(ratio, *_RATIO_BOUNDS)) ** exponent
    return np.asarray(scale * weighed, dtype=np.float32)
