"""The scattering model I = J t + A (1 - t), forwards and backwards, on photos of any size.

A diffusion model judges the veil at its own small size; here the judgement, a pair (I_low, J_low),
is carried to the photo's full size. Solved for the scene the model reads J = I / t - A (1 - t) / t:
locally affine in I. So the low-resolution pair gives t and A, and every detail of J comes from the
photo itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dehaze.density import darkest_pixels, weigh_veil
from dehaze.sky import sky_protection

Array = NDArray[np.float32]

# 1 / t amplifies noise and compression blocks as it amplifies detail: below this they win.
TRANSMISSION_MINIMUM = 0.12

# What varies less than this within the radius, a share of the short side, may be noise or blocks of
# JPEG, and is divided by no less than this t.
_NOISE_FLOOR = 0.01
_NOISE_RADIUS = 0.03
_QUIET_TRANSMISSION = 0.5

# The variance of the veil's colour about the airlight, over that of a scene's colours. Of 0 to .08
# the largest that costs no more than .02 dB on haze rendered over BSDS500's validation photos.
_COLOUR_DOUBT = 0.02

# One t is fitted to windows that reach so many pixels of the model's around their middle.
_FIT_RADIUS = 2
_ALTERNATIONS = 12

# How much the airlight is drawn to the photo's brightest pixels, per pixel, beside veils squared,
# and their share. Tried from .003 to 10 and from .1 to .001 on haze rendered over BSDS500's
# validation photos: no other pair was better there by more than .02 dB.
_AIRLIGHT_PULL = 0.01
_BRIGHTEST = 0.01

# What raises the airlight: veils of at least this, and all pixels behind them but this share, which
# may be noise; chosen likewise. Pixels above _BLOWN are left out for the sake of lamps and burnt
# skies in real photos.
_TELLING_VEIL = 0.3
_ABOVE_WHITE = 0.002
_BLOWN = 0.995
# The veil that all but this share of the pixels stay below is the photo's densest.
_DENSEST = 0.05

# The guided filter works at no more than this short side; only its coefficients reach full size.
_PROXY_SHORT_SIDE = 400


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


def guided_coefficients(
    guide: Array, target: Array, radius: int, epsilon: float
) -> tuple[Array, Array]:
    """Slope and intercept, per window, of the best affine map from guide to target.

    In each window of side 2 r + 1, a = (cov(guide) + epsilon 1)^-1 cov(guide, target) and
    b = mean(target) - a mean(guide); a and b are then averaged over the windows of each pixel.

    Args:
        guide: float32 (H, W) or (H, W, C).
        target: float32 (H, W).
        radius: r in pixels, at least 1.
        epsilon: regularisation, in squared units of the guide. A hazy guide varies little: 1e-4.

    Returns:
        slopes, float32 (H, W, C) (C = 1 for a grey guide), and intercepts, float32 (H, W).

    Raises:
        ValueError: guide and target are of different size, or the radius is below 1.

    Source: He, Sun and Tang, "Guided Image Filtering", TPAMI 2013, eqs. 5, 6 and 14, 15.
    """
    if guide.shape[:2] != target.shape:
        raise ValueError(f"guide is {guide.shape[:2]} and target is {target.shape}")
    if radius < 1:
        raise ValueError(f"radius is {radius}: it must be at least 1")
    channels = np.atleast_3d(guide).astype(np.float64)
    count = channels.shape[2]
    target64 = target.astype(np.float64)
    mean_target = _box(target64, radius)
    mean_guide = [_box(channels[..., c], radius) for c in range(count)]
    covariance = np.empty((*target.shape, count, count))
    crossed = np.empty((*target.shape, count, 1))
    for row in range(count):
        product = _box(channels[..., row] * target64, radius)
        crossed[..., row, 0] = product - mean_guide[row] * mean_target
        for column in range(row, count):
            product = _box(channels[..., row] * channels[..., column], radius)
            shared = product - mean_guide[row] * mean_guide[column]
            covariance[..., row, column] = covariance[..., column, row] = shared
    slopes = np.linalg.solve(covariance + epsilon * np.eye(count), crossed)[..., 0]
    intercepts = mean_target - sum(slopes[..., c] * mean_guide[c] for c in range(count))
    averaged = np.stack([_box(slopes[..., c], radius) for c in range(count)], axis=2)
    return averaged.astype(np.float32), _box(intercepts, radius).astype(np.float32)


def guided_filter(
    guide: Array, target: Array, radius: int, epsilon: float, subsample: int = 1
) -> Array:
    """Smooths ``target`` so that its edges are those of ``guide``.

    Args:
        guide: float32 (H, W) or (H, W, C).
        target: float32 (H, W).
        radius: in pixels of the full size.
        epsilon: regularisation, in squared units of the guide.
        subsample: the coefficients are found at 1 / subsample of the size.

    Returns:
        float32 (H, W).

    Raises:
        ValueError: as ``guided_coefficients``, or a subsample below 1.

    Source: He, Sun and Tang, TPAMI 2013; He and Sun, "Fast Guided Filter", arXiv 1505.00996.
    """
    if subsample < 1:
        raise ValueError(f"subsample is {subsample}: it must be at least 1")
    small_guide, small_target, small_radius = guide, target, radius
    if subsample > 1:
        size = (max(1, guide.shape[0] // subsample), max(1, guide.shape[1] // subsample))
        small_guide, small_target = resize(guide, size), resize(target, size)
        small_radius = max(1, round(radius / subsample))
    slopes, intercepts = guided_coefficients(small_guide, small_target, small_radius, epsilon)
    return apply_coefficients(guide, slopes, intercepts)


def apply_coefficients(guide: Array, slopes: Array, intercepts: Array) -> Array:
    """The affine map a I + b at the guide's size; the coefficients may be of a smaller size.

    Args:
        guide: float32 (H, W) or (H, W, C).
        slopes: float32 (h, w, C).
        intercepts: float32 (h, w).

    Returns:
        float32 (H, W).
    """
    size = guide.shape[:2]
    result = resize(intercepts, size).copy()
    for channel in range(slopes.shape[2]):
        plane = guide if guide.ndim == 2 else guide[..., channel]
        result += resize(np.ascontiguousarray(slopes[..., channel]), size) * plane
    return result


def resize(image: Array, size: tuple[int, int]) -> Array:
    """Resizes (H, W) or (H, W, C) to ``size`` = (height, width): area means down, linear up."""
    if image.shape[:2] == size:
        return image
    shrinks = size[0] <= image.shape[0] and size[1] <= image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size[::-1], interpolation=method), dtype=np.float32)


def fit_scattering(hazy: Array, clear: Array) -> tuple[Array, Array]:
    """The t and A that explain a pair by I = J t + A (1 - t), by alternating least squares.

    One t for the three channels, constant over a small window; one A for the photo:

        t = <I - A, J - A> / <J - A, J - A>,   A = sum (1 - t) (I - t J) / sum (1 - t)^2.

    A is drawn a little towards the mean of the photo's brightest pixels: an airlight off that
    colour would tint whatever is nearly as bright, the sky above all.

    Args:
        hazy: I, float32 (H, W, 3) in [0, 1].
        clear: J, float32 (H, W, 3) in [0, 1].

    Returns:
        t, float32 (H, W) in [``TRANSMISSION_MINIMUM``, 1], and A, float32 (3,) in [0, 1].

    Raises:
        ValueError: the pictures are of different size.
    """
    if hazy.shape != clear.shape:
        raise ValueError(f"the hazy picture is {hazy.shape} and the clear one {clear.shape}")
    brightness = hazy.mean(2)
    brightest = brightness >= np.quantile(brightness, 1.0 - _BRIGHTEST)
    bright = hazy[brightest].mean(0, dtype=np.float64)
    pull = _AIRLIGHT_PULL * brightness.size
    airlight = bright
    for _ in range(_ALTERNATIONS):
        from_airlight = clear - airlight
        numerator = _box(((hazy - airlight) * from_airlight).sum(2), _FIT_RADIUS)
        denominator = _box((from_airlight**2).sum(2), _FIT_RADIUS)
        # The small constant draws t to 1 where the scene has the airlight's own colour.
        transmission = np.clip((numerator + 1e-3) / (denominator + 1e-3), TRANSMISSION_MINIMUM, 1.0)
        veil = (1.0 - transmission)[..., None]
        explained = (veil * (hazy - transmission[..., None] * clear)).sum((0, 1))
        weight = float((veil**2).sum())
        airlight = np.clip((explained + pull * bright) / (weight + pull), 0.0, 1.0)
    return transmission.astype(np.float32), airlight.astype(np.float32)


def raise_airlight(photo: Array, transmission: Array, airlight: Array) -> Array:
    """The airlight, raised until the scene behind the veil is nowhere brighter than white.

    J <= 1 in I = J t + A (1 - t) bounds every channel of the airlight from below:
    A >= (I - t) / (1 - t). Where no part of the photo is nearly all veil, in a room above all, a
    model finds too dark an airlight; white things then come out above white, and name what it
    should have been. Where a part is, that part shows the airlight itself, and with v of the
    densest part the raise is only min(1, 2 (1 - v)) of what the bounds ask for. A blown pixel would
    name white behind any veil, so it has no say. All channels are raised by the one ratio that the
    strictest bound asks for: coloured lights would otherwise colour the airlight.

    Args:
        photo: I, float32 (H, W, 3) in [0, 1].
        transmission: t, float32 (H, W) in (0, 1].
        airlight: A, float32 (3,) in [0, 1].

    Returns:
        float32 (3,) in [0, 1], of A's hue where no channel reaches 1, and nowhere below A.
    """
    veil = 1.0 - transmission
    ratio = 1.0
    for channel in range(3):
        plane = photo[..., channel]
        telling = (veil >= _TELLING_VEIL) & (plane < _BLOWN)
        if telling.any():
            bounds = (plane[telling] - transmission[telling]) / veil[telling]
            bound = min(1.0, float(np.quantile(bounds, 1.0 - _ABOVE_WHITE)))
            ratio = max(ratio, bound / max(float(airlight[channel]), 1e-3))
    trust = min(1.0, 2.0 * (1.0 - float(np.quantile(veil, 1.0 - _DENSEST))))
    raised = airlight * (1.0 + trust * (ratio - 1.0))
    return np.asarray(np.minimum(raised, 1.0), dtype=np.float32)


@dataclass(frozen=True)
class Recovery:
    """A photo recovered at its own size.

    Attributes:
        image: float32 (H, W, 3) in [0, 1].
        transmission: t, float32 (H, W) in (0, 1], or None where the refinement has none.
        airlight: A, float32 (3,) in [0, 1], or None likewise.
    """

    image: Array
    transmission: Array | None = None
    airlight: Array | None = None


def recover_by_physics(photo: Array, hazy: Array, clear: Array, strength: float = 1.0) -> Recovery:
    """Carries a low-resolution result to the photo's size through t and A.

    t is found at low resolution, given the photo's edges by a guided filter, and divides the full
    photo.

    Args:
        photo: I, float32 (H, W, 3) in [0, 1].
        hazy: I_low, float32 (h, w, 3) in [0, 1], the photo as the model saw it.
        clear: J_low, float32 (h, w, 3) in [0, 1], the model's result.
        strength: at which the model's result was asked for; of no effect here.
    """
    airlight, slopes, intercepts = _transmission_map(_proxy(photo), hazy, clear)
    return _recover(photo, airlight, slopes, intercepts)


def recover_calibrated(photo: Array, hazy: Array, clear: Array, strength: float = 1.0) -> Recovery:
    """As ``recover_by_physics``, but the veil is held against the photo itself.

    What the darkest pixels say of it counts as well (``dehaze.density``), and skies are left as
    they are (``dehaze.sky``). Arguments as ``recover_by_physics``.
    """
    proxy = _proxy(photo)
    airlight, slopes, intercepts = _transmission_map(proxy, hazy, clear)
    guide = proxy.mean(2)
    found = np.clip(apply_coefficients(guide, slopes, intercepts), TRANSMISSION_MINIMUM, 1.0)
    veil = np.asarray(1.0 - found)
    transmission = calibrated_transmission(proxy, veil, airlight, strength)
    slopes, intercepts = guided_coefficients(guide, transmission, 1, 1e-5)
    return _recover(photo, airlight, slopes, intercepts)


def calibrated_transmission(
    photo: Array, veil: Array, airlight: Array, strength: float = 1.0, **weights: float
) -> Array:
    """t of ``calibrated_veil``, nearer to 1 in the sky (``dehaze.sky``). Arguments as there.

    Returns:
        t, float32 (H, W), at least ``TRANSMISSION_MINIMUM``.
    """
    weighed = calibrated_veil(photo, veil, airlight, strength, **weights)
    transmission = np.clip(1.0 - weighed, TRANSMISSION_MINIMUM, 1.0)
    recovered = recover_scene(photo, transmission, airlight)
    protection = sky_protection(photo, recovered, transmission, airlight)
    # The mask gets the photo's edges, roofs and branches before a sky.
    transmission += np.clip(_edged(photo, protection), 0.0, 1.0) * (1.0 - transmission)
    return transmission


def calibrated_veil(
    photo: Array, veil: Array, airlight: Array, strength: float = 1.0, **weights: float
) -> Array:
    """The model's veil and the darkest pixels' together; see ``dehaze.density.weigh_veil``.

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
    image = cv2.resize(clear, photo.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return Recovery(np.clip(image, 0.0, 1.0).astype(np.float32))


REFINEMENTS: dict[str, Callable[[Array, Array, Array, float], Recovery]] = {
    "calibrated": recover_calibrated,
    "physics": recover_by_physics,
    "affine": recover_by_affine,
    "none": recover_by_resizing,
}


WITH_TRANSMISSION = ("calibrated", "physics")
"""The refinements that estimate t and A."""


def _proxy(photo: Array) -> Array:
    """The photo at no more than the proxy's short side."""
    short = min(photo.shape[:2])
    if short <= _PROXY_SHORT_SIDE:
        return photo
    scale = _PROXY_SHORT_SIDE / short
    return resize(photo, (round(photo.shape[0] * scale), round(photo.shape[1] * scale)))


def _box(values: NDArray[Any], radius: int) -> NDArray[np.float64]:
    side = 2 * radius + 1
    mean = cv2.boxFilter(values, cv2.CV_64F, (side, side), borderType=cv2.BORDER_REFLECT)
    return np.asarray(mean)
