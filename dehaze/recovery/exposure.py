"""Makes a result as light as its photo: haze is light, so a photo without it is darker."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dehaze.luma import luma
from dehaze.recovery.guided_filter import reduced

Array = NDArray[np.float32]

# The largest slope at black, two stops. A larger one shows a camera's noise.
STEEPEST = 4.0
# Short side, in pixels, of the picture whose mean is taken.
_PROXY_SHORT_SIDE = 200
_BISECTIONS = 40


def lighten(scene: Array, slope: float) -> Array:
    """Lightens a picture by a curve that keeps black, white and every pixel's hue.

    With V the largest channel of a pixel, all its channels are multiplied by f(V) / V, where

        f(V) = a V / (1 + (a - 1) V).

    f is V's odds V / (1 - V) times a: it is 0 at 0 and 1 at 1, so that nothing is clipped; its
    slope is a at black and 1 / a at white. Hue and saturation (of HSV) stay as they are.

    Args:
        scene: float32 (H, W, 3) RGB in [0, 1].
        slope: a, positive; below 1 it darkens.

    Returns:
        float32 (H, W, 3) RGB in [0, 1].

    Raises:
        ValueError: the slope is not positive.

    Example:
        >>> lighten(np.full((1, 1, 3), 0.5, np.float32), 3.0)[0, 0]
        array([0.75, 0.75, 0.75], dtype=float32)
    """
    if not slope > 0.0:
        raise ValueError(f"slope is {slope}: it must be positive")
    # In place: a photo of 24 megapixels is 300 MB.
    gain = scene.max(axis=2)
    gain *= np.float32(slope - 1.0)
    gain += np.float32(1.0)
    np.divide(np.float32(slope), gain, out=gain)
    lightened = scene * gain[..., None]
    return np.asarray(np.minimum(lightened, 1.0, out=lightened), dtype=np.float32)


def slope_to_photo(scene: Array, photo: Array) -> float:
    """The slope a of ``lighten`` that gives a scene the mean luma of its photo.

    Args:
        scene: float32 (H, W, 3) RGB in [0, 1].
        photo: float32 (H, W, 3) RGB in [0, 1].

    Returns:
        a in [1 / ``STEEPEST``, ``STEEPEST``]; at a bound the mean is met as far as it goes.

    Raises:
        ValueError: the two are of different size.
    """
    if scene.shape != photo.shape:
        raise ValueError(f"the scene is {scene.shape} and the photo {photo.shape}")
    small = reduced(scene, _PROXY_SHORT_SIDE)
    wanted = float(luma(reduced(photo, _PROXY_SHORT_SIDE)).mean())
    grey, largest = luma(small), small.max(axis=2)
    # The mean grows with a: the interval that holds the answer is halved.
    low, high = -np.log(STEEPEST), np.log(STEEPEST)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        slope = np.exp(middle)
        if float((grey * slope / (1.0 + (slope - 1.0) * largest)).mean()) < wanted:
            low = middle
        else:
            high = middle
    return float(np.exp((low + high) / 2.0))


def keep_exposure(scene: Array, photo: Array, share: float) -> Array:
    """Lightens a scene towards the lightness of its photo.

    Args:
        scene: J, float32 (H, W, 3) RGB in [0, 1].
        photo: I, likewise.
        share: in [0, 1]: 0 leaves the scene as it is, at 1 its mean luma is the photo's; between
            them the curve's slope is a to the power of the share.

    Returns:
        float32 (H, W, 3) RGB in [0, 1]; the scene itself where the share is 0.
    """
    if share == 0.0:
        return scene
    return lighten(scene, slope_to_photo(scene, photo) ** share)
