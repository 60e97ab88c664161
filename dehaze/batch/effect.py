"""The effect of dehazing on a photo: two numbers, and remarks for the user."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dehaze.luma import LUMA_WEIGHTS

Array = NDArray[np.float32]

UNCHANGED = "nearly unchanged"
DARKER = "much darker"

# Share of the range, at strength 1; clear photos change by less, hazy ones by more.
_UNCHANGED_BELOW = 0.02
# Share of the photo's own brightness.
_DARKER_BELOW = 2 / 3


@dataclass(frozen=True)
class Effect:
    """How a result differs from its photo.

    Attributes:
        change: mean absolute difference over all pixels and channels, in [0, 1].
        brightness: mean luma of the result, as a share of the photo's; NaN for a black photo.
        remarks: what a user should look at: ``UNCHANGED``, ``DARKER``, both or nothing.
    """

    change: float = math.nan
    brightness: float = math.nan
    remarks: tuple[str, ...] = ()

    def sentences(self) -> list[str]:
        """Each remark with its number."""
        numbers = {
            UNCHANGED: f"its values moved by {255 * self.change:.1f} of 255 on average",
            DARKER: f"{100 * self.brightness:.0f} % of its brightness is left",
        }
        return [f"{remark}: {numbers[remark]}" for remark in self.remarks]


def measure(photo: Array, result: Array, strength: float = 1.0) -> Effect:
    """Compare a result with its photo.

    Args:
        photo: float32 (H, W, 3) RGB in [0, 1].
        result: the same photo without its haze, likewise.
        strength: how much of the haze was to go: a weaker dehazing may change less.

    Returns:
        The two numbers; ``UNCHANGED`` where the mean change is below 2 % of the range times the
        strength (at most 1), ``DARKER`` where less than two thirds of the mean luma is left.
    """
    change = float(cv2.norm(photo, result, cv2.NORM_L1)) / photo.size
    before, after = _mean_luma(photo), _mean_luma(result)
    brightness = after / before if before > 0 else math.nan
    remarks = []
    if change < _UNCHANGED_BELOW * min(strength, 1.0):
        remarks.append(UNCHANGED)
    if brightness < _DARKER_BELOW:
        remarks.append(DARKER)
    return Effect(change, brightness, tuple(remarks))


def _mean_luma(pixels: Array) -> float:
    return float(np.dot(cv2.mean(pixels)[:3], LUMA_WEIGHTS))
