"""The scattering model I = J t + A (1 - t), forwards and backwards, and its fit to a pair."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dehaze.recovery.guided_filter import box_mean
from dehaze.recovery.settings import RECOVERY, RecoverySettings

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


def recover_scene(hazy: Array, transmission: Array, airlight: Array) -> Array:
    """The scattering model solved for the scene: J = (I - A) / t + A, clipped to [0, 1].

    Args:
        hazy: I, float32 (H, W, 3) in [0, 1].
        transmission: t, float32 (H, W), positive.
        airlight: A, float32 (3,).

    Returns:
        J, float32 (H, W, 3) in [0, 1].
    """
    # In place: the temporary pictures of a photo of 24 megapixels would be a gigabyte.
    scene = hazy - airlight
    scene /= transmission[..., None]
    scene += airlight
    return np.asarray(np.clip(scene, 0.0, 1.0, out=scene), dtype=np.float32)


def fit_scattering(
    hazy: Array, clear: Array, settings: RecoverySettings = RECOVERY
) -> tuple[Array, Array]:
    """The t and A that explain a pair by I = J t + A (1 - t), by alternating least squares.

    One t for all values of a pixel, constant over a small window; one A for the photo:

        t = <I - A, J - A> / <J - A, J - A>,   A = sum (1 - t) (I - t J) / sum (1 - t)^2.

    Where J has A's own colour, any t explains I. There t is drawn to that of the whole photo.

    A is drawn a little to the mean of the photo's brightest pixels. An airlight of another colour
    would tint the sky.

    A model of cells gives three values a pixel: the mean, the darkest and the brightest of a cell.
    All three have the same t and A.

    Args:
        hazy: I, float32 (H, W, 3 k) in [0, 1]: RGB, k times.
        clear: J, likewise.
        settings: the windows, the alternations, and the weights that t and A are drawn by.

    Returns:
        t, float32 (H, W) in [``settings.least_transmission``, 1], and A, float32 (3,) in [0, 1].

    Raises:
        ValueError: the pictures are of different size.
    """
    if hazy.shape != clear.shape:
        raise ValueError(f"the hazy picture is {hazy.shape} and the clear one {clear.shape}")
    rgb = hazy[..., :3]
    times = hazy.shape[2] // 3
    brightness = rgb.mean(2)
    brightest = brightness >= np.quantile(brightness, 1.0 - settings.brightest)
    bright = rgb[brightest].mean(0, dtype=np.float64)
    to_bright = settings.airlight_weight * brightness.size * times
    to_overall = settings.transmission_weight
    airlight = bright
    for _ in range(settings.alternations):
        repeated = np.tile(airlight, times)
        from_airlight = clear - repeated
        products = ((hazy - repeated) * from_airlight).sum(2)
        squares = (from_airlight**2).sum(2)
        overall = (float(products.sum()) + to_overall) / (float(squares.sum()) + to_overall)
        numerator = box_mean(products, settings.window) + to_overall * min(max(overall, 0.0), 1.0)
        transmission = numerator / (box_mean(squares, settings.window) + to_overall)
        transmission = np.clip(transmission, settings.least_transmission, 1.0)
        density = (1.0 - transmission)[..., None]
        explained = (density * (hazy - transmission[..., None] * clear)).sum((0, 1))
        explained = explained.reshape(times, 3).sum(0)
        weight = float((density**2).sum()) * times
        airlight = np.clip((explained + to_bright * bright) / (weight + to_bright), 0.0, 1.0)
    return transmission.astype(np.float32), airlight.astype(np.float32)
