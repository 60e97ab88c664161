"""Carries the model's small result to the photo's own size.

The model sees the photo at a small size, as I_low, and returns J_low. The pair gives t and A. They
are brought to the photo's own size, and all detail of the result J comes from the photo I itself.

With L the luminance of I, smoothed, and a the mean of A's channels,

    J = a + (L - a) / t + g (I - L - (1 - t) (A - a)),   g = t / (t^2 + r (1 - t)^2).

The first two terms solve the scattering model for the smoothed luminance, where haze is even. The
third term holds colours and fine detail, where haze is less even, and where noise and JPEG blocks
are. There the scene has the amplitude t and the variance 1, and everything else has the variance
r (1 - t)^2. The gain g has the least squared error (Wiener's filter): it is 1 / t where haze is
thin, and 0 where nothing but haze is seen.

In dense haze the first two terms are a small difference divided by a small t, and an error of A
shifts them far. There J gets the lightness of J_low: a smooth e is added,

    e = mean over a window of (1 - g t) (J_low - J), of the mean of the channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dehaze.recovery.guided_filter import (
    apply_coefficients,
    box_mean,
    guided_coefficients,
    guided_filter,
    reduced,
    resize,
)
from dehaze.recovery.scattering import fit_scattering
from dehaze.recovery.settings import RECOVERY, RecoverySettings
from dehaze.registry import Registry

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Recovery:
    """A photo recovered at its own size.

    Attributes:
        image: float32 (H, W, 3) in [0, 1].
        transmission: t, float32 (H, W) in (0, 1], or None where the recovery has none.
        airlight: A, float32 (3,) in [0, 1], or None likewise.
    """

    image: Array
    transmission: Array | None = None
    airlight: Array | None = None


@dataclass(frozen=True)
class ProxyEstimate:
    """The haze of a photo, estimated at the smaller size at which the guided filter works.

    Attributes:
        photo: I at that size, float32 (h, w, 3) in [0, 1].
        transmission: t, float32 (h, w) in (0, 1].
        airlight: A, float32 (3,) in [0, 1].
        lightness: e, what is added to J, float32 (h, w).
    """

    photo: Array
    transmission: Array
    airlight: Array
    lightness: Array


def recover_by_physics(
    photo: Array, hazy: Array, clear: Array, settings: RecoverySettings = RECOVERY
) -> Recovery:
    """Carries a low-resolution result to the photo's size through t and A.

    t is found at low resolution, and given the photo's edges by a guided filter.

    Args:
        photo: I, float32 (H, W, 3) in [0, 1].
        hazy: I_low, float32 (h, w, 3 k) in [0, 1], the photo as the model saw it: RGB, and
            where k is 3 the darkest and the brightest pixels of each cell.
        clear: J_low, likewise, the model's result.
        settings: every number of the recovery.

    >>> hazy = cv2.resize(photo, (12, 8))
    >>> recover_by_physics(photo, hazy, hazy).transmission.min()
    np.float32(1.0)
    """
    return recover_through(photo, estimate_by_physics(photo, hazy, clear, settings), settings)


def estimate_by_physics(
    photo: Array, hazy: Array, clear: Array, settings: RecoverySettings = RECOVERY
) -> ProxyEstimate:
    """The t, A and e that ``recover_by_physics`` recovers by. Arguments as there."""
    fitted, airlight = fit_scattering(hazy, clear, settings)
    shrunk = shrink_thin_haze(fitted, settings.density_error)
    proxy = reduced(photo, settings.largest_proxy)
    guide = _grey(proxy)
    radius = max(1, round(min(guide.shape) / min(hazy.shape[:2])))
    coarse = cv2.resize(shrunk, guide.shape[::-1], interpolation=cv2.INTER_CUBIC)
    slopes, intercepts = guided_coefficients(
        guide, coarse.astype(np.float32), radius, settings.edge_variance
    )
    transmission = apply_coefficients(guide, slopes, intercepts)
    np.clip(transmission, settings.least_transmission, 1.0, out=transmission)
    recovered = remove_haze(proxy, transmission, airlight, settings, grey=guide)
    lightness = missing_lightness(recovered, transmission, clear[..., :3], settings)
    return ProxyEstimate(proxy, transmission, airlight, lightness)


def recover_through(
    photo: Array, estimate: ProxyEstimate, settings: RecoverySettings = RECOVERY
) -> Recovery:
    """Removes the haze of an estimate from a photo of any size.

    Args:
        photo: I, float32 (H, W, 3) in [0, 1].
        estimate: of this photo, or of this frame and its neighbours in a clip.
        settings: every number of the recovery.
    """
    transmission, grey = estimate.transmission, _grey(photo)
    if transmission.shape != photo.shape[:2]:
        slopes, intercepts = guided_coefficients(
            _grey(estimate.photo), transmission, 1, settings.enlarged_variance
        )
        transmission = apply_coefficients(grey, slopes, intercepts)
        np.clip(transmission, settings.least_transmission, 1.0, out=transmission)
    image = remove_haze(
        photo, transmission, estimate.airlight, settings, grey=grey, lightness=estimate.lightness
    )
    return Recovery(image, transmission, estimate.airlight)


def shrink_thin_haze(transmission: Array, error: float) -> Array:
    """t with less haze where the photo's mean density is near the model's error.

    With the mean density v = mean(1 - t), known to an error e, 1 - t is multiplied by
    v^4 / (v^4 + e^4). A clear photo stays as it is. Haze of twice the error stays nearly whole.

    Args:
        transmission: t, float32 (h, w) in (0, 1].
        error: e, in units of density.

    >>> shrink_thin_haze(np.full((1, 1), 0.95, np.float32), error=0.05).round(3)
    array([[0.975]], dtype=float32)
    """
    density = 1.0 - transmission
    power = float(density.mean()) ** 4
    if power == 0.0:
        return transmission
    return np.asarray(1.0 - density * np.float32(power / (power + error**4)))


def remove_haze(
    photo: Array,
    transmission: Array,
    airlight: Array,
    settings: RecoverySettings = RECOVERY,
    *,
    grey: Array | None = None,
    lightness: Array | None = None,
) -> Array:
    """J = a + (L - a) / t + g (I - L - (1 - t) (A - a)) + e; see the head of this module.

    Args:
        photo: I, float32 (H, W, 3) in [0, 1].
        transmission: t, float32 (H, W) in (0, 1].
        airlight: A, float32 (3,).
        settings: r, and how luminance is smoothed.
        grey: the mean of I's channels, float32 (H, W); computed when None.
        lightness: e, float32 of any size (h, w); 0 when None.

    Returns:
        J, float32 (H, W, 3) in [0, 1].
    """
    grey = _grey(photo) if grey is None else grey
    subsample = max(1, min(grey.shape) // settings.largest_proxy)
    radius = max(1, round(settings.coarse_radius * min(grey.shape)))
    coarse = guided_filter(grey, grey, radius, settings.coarse_variance, subsample)
    mean = np.float32(airlight.mean())
    luminance = mean + (coarse - mean) / transmission
    if lightness is not None:
        luminance += resize(lightness, grey.shape)
    detail_gain = gain(transmission, settings.noise_ratio)
    density = 1.0 - transmission
    image = np.empty_like(photo)
    # In place: a channel of a photo of 24 megapixels takes 100 MB.
    for channel in range(3):
        plane = photo[..., channel] - coarse
        plane -= (airlight[channel] - mean) * density
        plane *= detail_gain
        plane += luminance
        np.clip(plane, 0.0, 1.0, out=image[..., channel])
    return image


def missing_lightness(
    recovered: Array, transmission: Array, scene: Array, settings: RecoverySettings = RECOVERY
) -> Array:
    """e, by which the model's scene is lighter than J where haze is dense; negative if darker.

    Args:
        recovered: J without e, float32 (H, W, 3) in [0, 1].
        transmission: t, float32 (H, W) in (0, 1].
        scene: J_low, float32 (h, w, 3) in [0, 1].
        settings: r, and the half-width of the windows, in pixels of ``scene``.

    Returns:
        float32 (H, W).
    """
    size = (scene.shape[0], scene.shape[1])
    t = resize(transmission, size)
    weight = 1.0 - gain(t, settings.noise_ratio) * t
    difference = weight * (_grey(np.ascontiguousarray(scene)) - _grey(resize(recovered, size)))
    mean = box_mean(difference, settings.window).astype(np.float32)
    return resize(mean, (transmission.shape[0], transmission.shape[1]))


def gain(transmission: Array, noise_ratio: float) -> Array:
    """g = t / (t^2 + r (1 - t)^2), at most 1 / t: the factor of a photo's detail.

    Args:
        transmission: t, float32 (H, W) in (0, 1].
        noise_ratio: r, the variance of noise over that of the scene, at t = 0.
    """
    density = 1.0 - transmission
    return np.asarray(transmission / (transmission**2 + np.float32(noise_ratio) * density**2))


def recover_by_affine(photo: Array, hazy: Array, clear: Array) -> Recovery:
    """Carries a low-resolution result to the photo's size by a slope and intercept per channel.

    Arguments as ``recover_by_physics``.

    Source: Chen et al., "Bilateral Guided Upsampling", 2016, with He and Sun's fast guided filter.
    """
    image = np.empty_like(photo)
    for channel in range(3):
        slopes, intercepts = guided_coefficients(
            np.ascontiguousarray(hazy[..., channel]),
            np.ascontiguousarray(clear[..., channel]),
            radius=2,
            epsilon=1e-4,
        )
        image[..., channel] = apply_coefficients(
            np.ascontiguousarray(photo[..., channel]), slopes, intercepts
        )
    np.clip(image, 0.0, 1.0, out=image)
    return Recovery(image)


def recover_by_resizing(photo: Array, hazy: Array, clear: Array) -> Recovery:
    """The low-resolution result, enlarged, without any detail of the photo.

    Arguments as ``recover_by_physics``.
    """
    picture = np.ascontiguousarray(clear[..., :3])
    image = cv2.resize(picture, photo.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return Recovery(np.clip(image, 0.0, 1.0).astype(np.float32))


RECOVERIES = Registry[Callable[[Array, Array, Array], Recovery]]("recovery")
RECOVERIES.register("physics", recover_by_physics)
RECOVERIES.register("affine", recover_by_affine)
RECOVERIES.register("none", recover_by_resizing)


def _grey(photo: Array) -> Array:
    return np.asarray(cv2.transform(photo, np.full((1, 3), 1.0 / 3.0, dtype=np.float32)))
