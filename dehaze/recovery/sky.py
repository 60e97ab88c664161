"""Skies are left as the camera saw them.

Where a photo shows nothing but sky or air, I is nearly A, and J = (I - A) / t + A is whatever the
division makes of a camera's vignette, of compression and of the airlight's error: black corners,
olive clouds. Nothing behind such a region is hidden, so nothing is lost if it is divided by less.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

# Of the short side: the window in which a sky is smooth.
_WINDOW = 0.02
# Standard deviation of a sky's grey within the window, and its least brightness relative to A.
_SMOOTHNESS = 0.009
_BRIGHTNESS = 0.9
# A recovered sky that is bluer than this, blue minus red, is a blue sky and may be one.
_BLUENESS = 0.2
# Under a veil (mean of 1 - t) denser than the first it may as well be haze that looks like sky; at
# the second only this much of the protection is left.
_VEILS = (0.5, 0.65)
_LEFT_OVER = 0.1
# The most that t is raised by, as a share of 1 - t.
_PROTECTION = 0.8


def sky_protection(photo: Array, recovered: Array, transmission: Array, airlight: Array) -> Array:
    """How much of the veil to leave where the photo shows sky: t becomes t + p (1 - t).

    Sky is smooth, about as bright as the airlight, connected to the photo's upper edge, and not
    about to become blue.

    Args:
        photo: I, float32 (H, W, 3) in [0, 1].
        recovered: J without protection, float32 (H, W, 3) in [0, 1].
        transmission: t without protection, float32 (H, W) in (0, 1].
        airlight: A, float32 (3,) in [0, 1].

    Returns:
        p, float32 (H, W) in [0, .8].

    Raises:
        ValueError: the two pictures are of different size.
    """
    if photo.shape != recovered.shape:
        raise ValueError(f"the photo is {photo.shape} and the recovered one {recovered.shape}")
    grey = photo.mean(2)
    short = min(grey.shape)
    side = 2 * round(_WINDOW * short) + 1
    mean = cv2.blur(grey, (side, side))
    variance = np.maximum(cv2.blur(grey * grey, (side, side)) - mean * mean, 0.0)
    smooth = np.exp(-variance / _SMOOTHNESS**2)
    bright = _soft_step(mean / max(float(airlight.mean()), 1e-3) - _BRIGHTNESS)
    likely = smooth * bright
    _, labels = cv2.connectedComponents((likely > 0.3).astype(np.uint8))
    at_the_top = np.unique(labels[: max(1, short // 50)])
    connected = np.isin(labels, at_the_top[at_the_top > 0]).astype(np.uint8)
    likely = likely * cv2.dilate(connected, np.ones((side, side), np.uint8))
    veil = 1.0 - float(transmission.mean())
    beyond = np.clip((veil - _VEILS[0]) / (_VEILS[1] - _VEILS[0]), 0.0, 1.0)
    softened = cv2.blur(recovered, (9, 9))
    not_blue = _soft_step(_BLUENESS - (softened[..., 2] - softened[..., 0]))
    kept = _PROTECTION * (1.0 - (1.0 - _LEFT_OVER) * beyond)
    return np.asarray(kept * likely * not_blue, dtype=np.float32)


def _soft_step(values: NDArray[Any]) -> NDArray[Any]:
    """From 0 to 1 around zero, within about .1 to either side."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(values, -1.0, 1.0) / 0.03)))
