"""Carries the model's small result to the photo's own size.

A diffusion model judges the veil at its own small size; here the judgement, a pair (I_low, J_low),
is carried to the photo's full size. Solved for the scene the model reads J = I / t - A (1 - t) / t:
locally affine in I. So the low-resolution pair gives t and A, and every detail of J comes from the
photo itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from dehaze.recovery.density import darkest_pixels, weigh_veil
from dehaze.recovery.guided_filter import (
    apply_coefficients,
    guided_coefficients,
    guided_filter,
    resize,
)
from dehaze.recovery.scattering import (
    TRANSMISSION_MINIMUM,
    fit_scattering,
    raise_airlight,
    recover_scene,
)
from dehaze.recovery.sky import sky_protection
from dehaze.registry import Registry

Array = NDArray[np.float32]

# What varies less than this within the radius, a share of the short side, may be noise or blocks of
# JPEG, and is divided by no less than this t.
_NOISE_FLOOR = 0.01
_NOISE_RADIUS = 0.03
_QUIET_TRANSMISSION = 0.5

# The variance of the veil's colour about the airlight, over that of a scene's colours. Of 0 to .08
# the largest that costs no more than .02 dB on haze rendered over BSDS500's validation photos.
_COLOUR_DOUBT = 0.02

# The guided filter works at no more than this short side; only its coefficients reach full size.
_PROXY_SHORT_SIDE = 400


@dataclass(frozen=True)
class Recovery:
    """A photo recovered at its own size.

    Attributes:
        image: float32 (H, W, 3) in [0, 1].
        transmission: t, float32 (H, W) in (0, 1], or None where the recovery has none.
        airlight: A, float32 (3,) in [0, 1], or None likewise.
        estimate: what t and A are of, or None likewise.
    """

    image: Array
    transmission: Array | None = None
    airlight: Array | None = None
    estimate: ProxyEstimate | None = None


@dataclass(frozen=True)
class ProxyEstimate:
    """What a small pair says of the haze in its photo, at the size that the guided filter works at.

    Attributes:
        photo: I at that size, float32 (h, w, 3) in [0, 1]: a short side of at most 400 pixels.
        transmission: t, float32 (h, w) in (0, 1].
        airlight: A, float32 (3,) in [0, 1].
        unprotected: t before skies are left as they are, likewise; None where they are not.
    """

    photo: Array
    transmission: Array
    airlight: Array
    unprotected: Array | None = None


def recover_by_physics(photo: Array, hazy: Array, clear: Array, strength: float = 1.0) -> Recovery:
    """Carries a low-resolution result to the photo's size through t and A.

    t is found at low resolution, given the photo's edges by a guided filter, and divides the full
    photo.

    Args:
        photo: I, float32 (H, W, 3) in [0, 1].
        hazy: I_low, float32 (h, w, 3 k) in [0, 1], the photo as the model saw it: RGB, and
            where k is 3 the darkest and the brightest pixels of each cell.
        clear: J_low, likewise, the model's result.
        strength: at which the model's result was asked for; of no effect here.
    """
    proxy = _proxy(photo)
    airlight, slopes, intercepts = _transmission_map(proxy, hazy, clear)
    recovered = _recover(photo, airlight, slopes, intercepts)
    return replace(recovered, estimate=_estimate(proxy, airlight, slopes, intercepts))


def recover_calibrated(photo: Array, hazy: Array, clear: Array, strength: float = 1.0) -> Recovery:
    """As ``recover_by_physics``, but the veil is held against the photo itself.

    What the darkest pixels say of it counts as well (``dehaze.recovery.density``), and skies are
    left as they are (``dehaze.recovery.sky``). Arguments as ``recover_by_physics``.
    """
    return recover_through(photo, estimate_calibrated(photo, hazy, clear, strength))


def estimate_by_physics(
    photo: Array, hazy: Array, clear: Array, strength: float = 1.0
) -> ProxyEstimate:
    """The t and A that ``recover_by_physics`` divides by. Arguments as there."""
    proxy = _proxy(photo)
    return _estimate(proxy, *_transmission_map(proxy, hazy, clear))


def _estimate(proxy: Array, airlight: Array, slopes: Array, intercepts: Array) -> ProxyEstimate:
    found = apply_coefficients(proxy.mean(2), slopes, intercepts)
    transmission = np.clip(found, TRANSMISSION_MINIMUM, 1.0)
    return ProxyEstimate(proxy, transmission, airlight)


def estimate_calibrated(
    photo: Array, hazy: Array, clear: Array, strength: float = 1.0
) -> ProxyEstimate:
    """The t and A that ``recover_calibrated`` divides by. Arguments as there."""
    found = estimate_by_physics(photo, hazy, clear, strength)
    veil = np.asarray(1.0 - found.transmission)
    before = weighed_transmission(found.photo, veil, found.airlight, strength)
    after = protect_sky(found.photo, before, found.airlight)
    return replace(found, transmission=after, unprotected=before)


def recover_through(photo: Array, estimate: ProxyEstimate) -> Recovery:
    """Removes the haze of an estimate from a photo of any size.

    Args:
        photo: I, float32 (H, W, 3) in [0, 1].
        estimate: of the photo, or of its neighbours in a film as well.
    """
    guide = estimate.photo.mean(2)
    slopes, intercepts = guided_coefficients(guide, estimate.transmission, 1, 1e-5)
    recovered = _recover(photo, estimate.airlight, slopes, intercepts)
    return replace(recovered, estimate=estimate)


def calibrated_transmission(
    photo: Array, veil: Array, airlight: Array, strength: float = 1.0, **weights: float
) -> Array:
    """t of ``calibrated_veil``, nearer to 1 in the sky. Arguments as there.

    Returns:
        t, float32 (H, W), at least ``TRANSMISSION_MINIMUM``.
    """
    before = weighed_transmission(photo, veil, airlight, strength, **weights)
    return protect_sky(photo, before, airlight)


def weighed_transmission(
    photo: Array, veil: Array, airlight: Array, strength: float = 1.0, **weights: float
) -> Array:
    """t of ``calibrated_veil``, at least ``TRANSMISSION_MINIMUM``. Arguments as there."""
    weighed = calibrated_veil(photo, veil, airlight, strength, **weights)
    return np.asarray(np.clip(1.0 - weighed, TRANSMISSION_MINIMUM, 1.0), dtype=np.float32)


def protect_sky(photo: Array, transmission: Array, airlight: Array) -> Array:
    """t nearer to 1 where the photo shows sky; see ``dehaze.recovery.sky``.

    Args:
        photo: I, float32 (H, W, 3) in [0, 1].
        transmission: t, float32 (H, W).
        airlight: A, float32 (3,) in [0, 1].
    """
    recovered = recover_scene(photo, transmission, airlight)
    protection = sky_protection(photo, recovered, transmission, airlight)
    # The mask gets the photo's edges, roofs and branches before a sky.
    raised = np.clip(_edged(photo, protection), 0.0, 1.0) * (1.0 - transmission)
    return np.asarray(transmission + raised, dtype=np.float32)


def calibrated_veil(
    photo: Array, veil: Array, airlight: Array, strength: float = 1.0, **weights: float
) -> Array:
    """The model's veil and the darkest pixels' together; see ``weigh_veil``.

    Args:
        photo: I, float32 (H, W, 3) in [0, 1].
        veil: 1 - t as the model found it at ``strength``, float32 (H, W).
        airlight: A, float32 (3,) in [0, 1].
        strength: the share of the veil that was asked for; the rest is meant to stay.
        weights: ``share``, ``region_share``, ``exponent``: the ones that were fitted unless given.
    """
    if strength <= 0.0:
        return veil
    darkest = np.asarray(strength * darkest_pixels(photo, airlight), dtype=np.float32)
    return weigh_veil(veil, darkest, _edged(photo, darkest), **weights)


def _edged(photo: Array, mask: Array) -> Array:
    """The mask with the photo's edges instead of its own."""
    radius = max(1, round(0.05 * min(photo.shape[:2])))
    return guided_filter(photo.mean(2), mask, radius, 1e-3)


def _transmission_map(proxy: Array, hazy: Array, clear: Array) -> tuple[Array, Array, Array]:
    """A, and t as a map of the photo's grey: slopes and intercepts at the proxy's size."""
    low_transmission, fitted = fit_scattering(hazy, clear)
    size = proxy.shape[:2]
    airlight = raise_airlight(proxy, resize(low_transmission, size), fitted)
    radius = max(1, round(min(size) / min(hazy.shape[:2])))
    coarse = cv2.resize(low_transmission, size[::-1], interpolation=cv2.INTER_CUBIC)
    slopes, intercepts = guided_coefficients(proxy.mean(2), coarse.astype(np.float32), radius, 1e-4)
    return airlight, slopes, intercepts


def recover_quietly(hazy: Array, transmission: Array, airlight: Array) -> Array:
    """``recover_scene`` that does not enlarge noise and compression blocks as it does detail.

    With B the photo without what is weaker than the noise floor (smoothed by a guided filter whose
    guide it is itself, so that edges stay in it),

        J = (B - A) / t + A + (I - B) / max(t, .5).

    Args:
        hazy: I, float32 (H, W, 3) in [0, 1].
        transmission: t, float32 (H, W), positive.
        airlight: A, float32 (3,).

    Returns:
        J, float32 (H, W, 3) in [0, 1].
    """
    if float(transmission.min()) >= _QUIET_TRANSMISSION:
        return recover_scene(hazy, transmission, airlight)
    short = min(hazy.shape[:2])
    subsample = max(1, short // _PROXY_SHORT_SIDE)
    radius = max(1, round(_NOISE_RADIUS * short))
    quiet = np.maximum(transmission, _QUIET_TRANSMISSION)
    scene = np.empty_like(hazy)
    for channel in range(3):
        plane = hazy[..., channel].copy()
        base = guided_filter(plane, plane, radius, _NOISE_FLOOR**2, subsample)
        plane -= base
        plane /= quiet
        base -= airlight[channel]
        base /= transmission
        base += plane
        base += airlight[channel]
        np.clip(base, 0.0, 1.0, out=scene[..., channel])
    return scene


def subdue_colours(scene: Array, transmission: Array) -> Array:
    """Draws the scene to grey where dense haze leaves nothing to know of its colours.

    A veil is never all of one colour, and where it differs from A by d, the scene comes out off by
    d (1 - t) / t: blue or in coloured blotches behind the densest part. With Y the mean of the
    channels, and both d and the scene's colours, J - Y, normal about 0 with the variances
    ``_COLOUR_DOUBT`` to 1, the most probable scene is

        Y + (J - Y) / (1 + _COLOUR_DOUBT ((1 - t) / t)^2):

    .995 of the colour at t = 2/3, .76 at t = 1/5, .48 at the smallest t.

    Args:
        scene: J, float32 (H, W, 3) in [0, 1].
        transmission: t, float32 (H, W) in (0, 1].

    Returns:
        float32 (H, W, 3) in [0, 1].
    """
    grey = cv2.transform(scene, np.full((1, 3), 1.0 / 3.0, dtype=np.float32))[..., None]
    # In place, as in recover_scene.
    divisor = 1.0 / transmission
    divisor -= 1.0
    divisor *= divisor
    divisor *= _COLOUR_DOUBT
    divisor += 1.0
    subdued = scene - grey
    subdued /= divisor[..., None]
    subdued += grey
    return np.asarray(np.clip(subdued, 0.0, 1.0, out=subdued), dtype=np.float32)


def _recover(photo: Array, airlight: Array, slopes: Array, intercepts: Array) -> Recovery:
    transmission = apply_coefficients(photo.mean(2), slopes, intercepts)
    np.clip(transmission, TRANSMISSION_MINIMUM, 1.0, out=transmission)
    scene = recover_quietly(photo, transmission, airlight)
    return Recovery(subdue_colours(scene, transmission), transmission, airlight)


def recover_by_affine(photo: Array, hazy: Array, clear: Array, strength: float = 1.0) -> Recovery:
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


def recover_by_resizing(photo: Array, hazy: Array, clear: Array, strength: float = 1.0) -> Recovery:
    """The low-resolution result, enlarged: what the model itself made, and no detail of the photo.

    Arguments as ``recover_by_physics``.
    """
    picture = np.ascontiguousarray(clear[..., :3])
    image = cv2.resize(picture, photo.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return Recovery(np.clip(image, 0.0, 1.0).astype(np.float32))


RECOVERIES = Registry[Callable[[Array, Array, Array, float], Recovery]]("recovery")
RECOVERIES.register("calibrated", recover_calibrated)
RECOVERIES.register("physics", recover_by_physics)
RECOVERIES.register("affine", recover_by_affine)
RECOVERIES.register("none", recover_by_resizing)

ESTIMATES = Registry[Callable[[Array, Array, Array, float], ProxyEstimate]]("recovery")
"""The recoveries that estimate t and A, as far as these; arguments as those of ``RECOVERIES``."""
ESTIMATES.register("calibrated", estimate_calibrated)
ESTIMATES.register("physics", estimate_by_physics)

WITH_TRANSMISSION = tuple(ESTIMATES.names())
"""The recoveries that estimate t and A."""


def _proxy(photo: Array) -> Array:
    """The photo at no more than the proxy's short side, float32 (h, w, 3)."""
    short = min(photo.shape[:2])
    if short <= _PROXY_SHORT_SIDE:
        return photo
    scale = _PROXY_SHORT_SIDE / short
    return resize(photo, (round(photo.shape[0] * scale), round(photo.shape[1] * scale)))
