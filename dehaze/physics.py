"""The scattering model I = J t + A (1 - t), forwards and backwards, on photos of any size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def scatter(clear: Array, transmission: Array, airlight: Array) -> Array:
    """The scattering model: I = J t + A (1 - t).

    Args:
        clear: J, float32 (H, W, 3) in [0, 1], the scene without haze.
        transmission: t, float32 (H, W) in [0, 1], the share of light that reaches the camera.
        airlight: A, float32 (3,) in [0, 1], the colour of infinitely thick haze.

    Returns:
        I, float32 (H, W, 3) in [0, 1].

    Source: Koschmieder 1924; Narasimhan and Nayar, "Vision and the Atmosphere", 2002.
    """
    t = transmission[..., None]
    return np.asarray(clear * t + airlight * (1.0 - t), dtype=np.float32)
