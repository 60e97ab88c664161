"""Relative depth from haze: the optical depth -log t."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dehaze.recovery.settings import RECOVERY

Array = NDArray[np.float32]

MOST_DEPTH = -math.log(RECOVERY.least_transmission)
"""The largest depth that can be known: -log of the least t."""

# A t within this factor of the least t counts as the least: rounding hides the difference.
_AT_MINIMUM = 1.001


def relative_depth(transmission: Array) -> Array:
    """Relative depth, -log t = beta d.

    In even haze t = exp(-beta d), with the distance d and the haze's coefficient beta. Depth is
    known up to the factor beta, and only where the haze is even. It is unknown where t is at its
    minimum, and near 0 where the photo has no haze.

    Args:
        transmission: t of a photo dehazed at strength 1, float32 (H, W) in (0, 1].

    Returns:
        float32 (H, W) in [0, ``MOST_DEPTH``], larger where the scene is farther; NaN where t is at
        its minimum and the depth unknown.

    Source: Beer and Lambert's law; Narasimhan and Nayar, "Vision and the Atmosphere", 2002.

    Example:
        >>> from dehaze import DehazePipeline
        >>> result = DehazePipeline.from_pretrained()(photo)
        >>> depth = relative_depth(result.transmission)
    """
    depth = -np.log(transmission)
    depth[transmission <= RECOVERY.least_transmission * _AT_MINIMUM] = np.nan
    return np.asarray(depth, dtype=np.float32)


def as_levels(depth: Array) -> Array:
    """Relative depth as a picture of 16 bits holds it, float32 (H, W) in [0, 1].

    0 is nearest, 65534 of 65535 stands for ``MOST_DEPTH``, and 1 for what is not known.
    """
    return np.where(np.isnan(depth), 1.0, depth / MOST_DEPTH * (65534 / 65535)).astype(np.float32)
