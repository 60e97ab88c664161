"""Classical haze removal, at full resolution and on a CPU, for comparison.

Every baseline takes and returns float32 (H, W, 3) RGB in [0, 1], as encoded in the file (sRGB). Its
parameters are those of its publication, or its program's defaults; none was fitted to a data set.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from dehaze.priors import (
    PRIORS,
    ClassicalMethod,
    HazeEstimate,
    RemovalByEstimate,
    checked,
    dark_channel,
    minimum_filter,
    thinning,
)
from dehaze.recovery.guided_filter import guided_filter
from dehaze.registry import Registry

Array = NDArray[np.float32]


def _maximum_filter(values: Array, size: int) -> Array:
    return np.asarray(cv2.dilate(values, np.ones((size, size), np.uint8)), dtype=np.float32)


def clahe(hazy: Array) -> Array:
    """Contrast-limited adaptive histogram equalisation of the lightness L* of CIELAB.

    8x8 tiles, clip limit 2, in 16 bits; colours keep their a* and b*.

    Args:
        hazy: (H, W, 3) float32 RGB in [0, 1].

    Returns:
        (H, W, 3) float32 RGB in [0, 1].

    Raises:
        ValueError: not float32 (H, W, 3).

    Source: Zuiderveld, "Contrast Limited Adaptive Histogram Equalization", Graphics Gems IV, 1994.
    """
    lab = cv2.cvtColor(checked(hazy), cv2.COLOR_RGB2Lab)
    lightness = np.rint(lab[..., 0] * (65535 / 100)).astype(np.uint16)
    equalised = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(lightness)
    lab[..., 0] = equalised.astype(np.float32) * np.float32(100 / 65535)
    return np.clip(cv2.cvtColor(lab, cv2.COLOR_Lab2RGB), 0, 1)


# The airlight is estimated from the picture at this long side, in pixels, so that a preview and the
# full picture have the same.
_PROXY = 1024


def _airlight_of_haziest(hazy: Array, window: int, share: float) -> Array:
    """The mean colour of the brightest ``share`` among the haziest ``share``."""
    height, width = hazy.shape[:2]
    scale = _PROXY / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        hazy = cv2.resize(hazy, size, interpolation=cv2.INTER_AREA)
    colours = hazy.reshape(-1, 3)
    haziness = dark_channel(hazy, window).ravel()
    hazy_colours = colours[haziness >= np.quantile(haziness, 1 - share)]
    brightness = hazy_colours.sum(axis=1)
    brightest = hazy_colours[brightness >= np.quantile(brightness, 1 - share)]
    mean = brightest.mean(axis=0, dtype=np.float64).astype(np.float32)
    return np.clip(mean, np.float32(1 / 255), np.float32(1))


def estimate_by_photo_editor(
    hazy: Array,
    *,
    strength: float = 0.2,
    window: int = 13,
    guided_window: int = 19,
    epsilon: float = 0.025,
) -> HazeEstimate:
    """Transmission and airlight as photo editors estimate them.

    The transmission of each pixel is t = 1 - strength min_c(I_c / A_c), over the channels c. A grey
    closing spreads it over a window, without the square edges of a minimum filter, and a guided
    filter fits it to the edges of the picture. Last, t is raised until no channel of the result
    leaves [0, 1]: t >= 1 - I / A where I < A, and t >= (I - A) / (1 - A) where I > A.

    Args:
        hazy: (H, W, 3) float32 in [0, 1].
        strength: the share of the haze to remove, in [0, 1].
        window: side of the window of the dark channel and the closing, in pixels.
        guided_window: side of the guided filter's window, in pixels.
        epsilon: the guided filter's regularisation.

    Returns:
        t (H, W) and A (3,); A comes from the brightest 5 % of the haziest 5 %.

    Raises:
        ValueError: not float32 (H, W, 3).

    Sources: the descriptions of haze removal in darktable (windows, strength) and in RawTherapee
    (the bounds on t). Those programs work on linear light; here the steps run on the picture as it
    is encoded (sRGB).
    """
    hazy = checked(hazy)
    airlight = _airlight_of_haziest(hazy, window, 0.05)
    raw = 1 - np.float32(strength) * (hazy / airlight).min(axis=2)
    closed = minimum_filter(_maximum_filter(raw, window), window)
    refined = guided_filter(hazy, closed, guided_window // 2, epsilon, subsample=thinning(hazy))
    below = 1 - hazy / airlight
    above = (hazy - airlight) / np.maximum(1 - airlight, np.float32(1 / 255))
    bound = np.maximum(below, above).max(axis=2)
    return HazeEstimate(np.clip(np.maximum(refined, bound), 0, 1), airlight)


BASELINES = Registry[ClassicalMethod]("baseline")
for _prior in PRIORS:
    BASELINES.register(_prior.name, _prior)
BASELINES.register(
    "clahe",
    ClassicalMethod(
        "clahe", "contrast-limited adaptive histogram equalisation", "Zuiderveld 1994", clahe
    ),
)
BASELINES.register(
    "darktable",
    ClassicalMethod(
        "darktable",
        "photo editor's haze removal",
        "darktable and RawTherapee, re-implemented",
        RemovalByEstimate(estimate_by_photo_editor, t_min=0.05),
        estimate_by_photo_editor,
    ),
)
