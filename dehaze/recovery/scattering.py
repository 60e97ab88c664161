"""The scattering model I = J t + A (1 - t), forwards and backwards, and its fit to a pair."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dehaze.recovery.guided_filter import box_mean

Array = NDArray[np.float32]

# 1 / t amplifies noise and compression blocks as it amplifies detail: below this they win.
TRANSMISSION_MINIMUM = 0.12

# Half-width, in pixels of the model's picture, of the windows that one t is fitted to.
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


def fit_scattering(hazy: Array, clear: Array) -> tuple[Array, Array]:
    """The t and A that explain a pair by I = J t + A (1 - t), by alternating least squares.

    One t for the three channels, constant over a small window; one A for the photo:

        t = <I - A, J - A> / <J - A, J - A>,   A = sum (1 - t) (I - t J) / sum (1 - t)^2.

    A is drawn a little towards the mean of the photo's brightest pixels: an airlight off that
    colour would tint whatever is nearly as bright, the sky above all.

    Where a model knows more of each pixel than its mean (the darkest and the brightest of a cell),
    all of it obeys the same t and A.

    Args:
        hazy: I, float32 (H, W, 3 k) in [0, 1]: RGB, k times.
        clear: J, likewise.

    Returns:
        t, float32 (H, W) in [``TRANSMISSION_MINIMUM``, 1], and A, float32 (3,) in [0, 1].

    Raises:
        ValueError: the pictures are of different size.
    """
    if hazy.shape != clear.shape:
        raise ValueError(f"the hazy picture is {hazy.shape} and the clear one {clear.shape}")
    rgb = hazy[..., :3]
    times = hazy.shape[2] // 3
    brightness = rgb.mean(2)
    brightest = brightness >= np.quantile(brightness, 1.0 - _BRIGHTEST)
    bright = rgb[brightest].mean(0, dtype=np.float64)
    pull = _AIRLIGHT_PULL * brightness.size
    airlight = bright
    for _ in range(_ALTERNATIONS):
        repeated = np.tile(airlight, times)
        from_airlight = clear - repeated
        numerator = box_mean(((hazy - repeated) * from_airlight).sum(2), _FIT_RADIUS)
        denominator = box_mean((from_airlight**2).sum(2), _FIT_RADIUS)
        # The small constant draws t to 1 where the scene has the airlight's own colour.
        transmission = np.clip((numerator + 1e-3) / (denominator + 1e-3), TRANSMISSION_MINIMUM, 1.0)
        veil = (1.0 - transmission)[..., None]
        explained = (veil * (hazy - transmission[..., None] * clear)).sum((0, 1))
        explained = explained.reshape(times, 3).sum(0)
        weight = float((veil**2).sum()) * times
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
