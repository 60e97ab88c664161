"""Haze removal by hand-made priors, which ``dehaze run --method`` offers beside the model.

Each takes and returns float32 (H, W, 3) RGB in [0, 1], as encoded in the file (sRGB). Its
parameters are those of its publication; none was fitted to a data set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dehaze.recovery.guided_filter import guided_filter
from dehaze.recovery.scattering import recover_scene
from dehaze.registry import Registry

Array = NDArray[np.float32]

# Above this many pixels the guided filter solves for its coefficients on a grid thinned by 4, as He
# and Sun (2015) recommend for radii of this kind.
_FAST_FROM = 2_000_000


@dataclass(frozen=True)
class HazeEstimate:
    """A prior's estimate from a hazy picture.

    Attributes:
        transmission: t, (H, W) float32 in [0, 1].
        airlight: A, (3,) float32 in [0, 1], RGB.
    """

    transmission: Array
    airlight: Array


@dataclass(frozen=True)
class ClassicalMethod:
    """A registered method that needs no model.

    Attributes:
        name: the name on the command line and in tables.
        title: what it is, in a few words.
        source: the publication or program that it follows.
        run: the method itself.
        estimate: its estimate of transmission and airlight, where it has one.
    """

    name: str
    title: str
    source: str
    run: Callable[[Array], Array]
    estimate: Callable[[Array], HazeEstimate] | None = None


def checked(hazy: Array) -> Array:
    """The picture itself.

    Raises:
        ValueError: it is not float32 (H, W, 3).
    """
    if hazy.ndim != 3 or hazy.shape[2] != 3 or hazy.dtype != np.float32:
        raise ValueError(
            f"expected float32 pixels of shape (H, W, 3), got {hazy.dtype} {hazy.shape}"
        )
    return hazy


def thinning(hazy: Array) -> int:
    """The factor by which the guided filter's grid is thinned for a picture of this size."""
    return 4 if hazy.shape[0] * hazy.shape[1] > _FAST_FROM else 1


def _grey(picture: Array) -> Array:
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), dtype=np.float32)


def recover(hazy: Array, estimate: HazeEstimate, t_min: float) -> Array:
    """Solve the scattering model for the scene with t held at ``t_min`` or above.

    Args:
        hazy: I, (H, W, 3) float32 in [0, 1].
        estimate: t and A.
        t_min: 1/t multiplies noise and JPEG blocks; this bounds it.

    Returns:
        J, (H, W, 3) float32 in [0, 1].
    """
    transmission = np.maximum(estimate.transmission, np.float32(t_min))
    return recover_scene(hazy, transmission, estimate.airlight)


@dataclass(frozen=True)
class RemovalByEstimate:
    """Haze removal by an estimate of t and A: solves the scattering model for the scene.

    Takes and returns (H, W, 3) float32 RGB in [0, 1].

    Attributes:
        estimate: reads t and A from the picture.
        t_min: as for ``recover``.

    Raises:
        ValueError: the picture is not float32 (H, W, 3).
    """

    estimate: Callable[[Array], HazeEstimate]
    t_min: float

    def __call__(self, hazy: Array) -> Array:
        """J, (H, W, 3) float32 in [0, 1]."""
        return recover(hazy, self.estimate(hazy), self.t_min)


def minimum_filter(values: Array, side: int) -> Array:
    """The smallest value within side x side pixels, float32 (H, W)."""
    # OpenCV's erosion takes what lies outside as infinite: windows are cut off at the border.
    return np.asarray(cv2.erode(values, np.ones((side, side), np.uint8)), dtype=np.float32)


def dark_channel(picture: Array, patch: int) -> Array:
    """The smallest value of any channel within patch x patch pixels.

    Args:
        picture: (H, W, 3) float32.
        patch: the window's side, in pixels.

    Returns:
        (H, W) float32.

    Source: He, Sun and Tang, CVPR 2009, eq. 5.
    """
    return minimum_filter(np.ascontiguousarray(picture.min(axis=2)), patch)


def _brightest_among(hazy: Array, haziness: Array, fraction: float) -> Array:
    """The brightest pixel (by the sum of its channels) among the haziest ``fraction``."""
    flat = haziness.ravel()
    count = max(1, int(flat.size * fraction))
    # Ties are common in 8-bit skies: all of them count, so that no sorting order decides.
    threshold = np.partition(flat, flat.size - count)[flat.size - count]
    colours = hazy.reshape(-1, 3)[flat >= threshold]
    # A picture that is black where it is haziest gives no airlight to divide by.
    return np.maximum(colours[colours.sum(axis=1).argmax()], np.float32(1 / 255))


def estimate_by_dark_channel(
    hazy: Array,
    *,
    patch: int = 15,
    omega: float = 0.95,
    radius: int = 60,
    epsilon: float = 1e-4,
) -> HazeEstimate:
    """Transmission and airlight by the dark channel prior.

        t = 1 - omega min over patch and channels of I / A

    refined by a guided filter under the grey picture. A is the brightest pixel among the .1 % with
    the brightest dark channel.

    Args:
        hazy: (H, W, 3) float32 in [0, 1].
        patch: the dark channel's window, in pixels.
        omega: the share of haze to see; below 1, distant objects keep some.
        radius: the guided filter's, in pixels.
        epsilon: the guided filter's regularisation.

    Returns:
        t (H, W) and A (3,).

    Raises:
        ValueError: not float32 (H, W, 3).

    Sources: He, Sun and Tang, "Single Image Haze Removal Using Dark Channel Prior", CVPR 2009, and
    "Guided Image Filtering", TPAMI 2013; from 2 megapixels on He and Sun, "Fast Guided Filter",
    arXiv 1505.00996.
    """
    hazy = checked(hazy)
    airlight = _brightest_among(hazy, dark_channel(hazy, patch), 0.001)
    raw = 1 - np.float32(omega) * dark_channel(hazy / airlight, patch)
    refined = guided_filter(_grey(hazy), raw, radius, epsilon, subsample=thinning(hazy))
    return HazeEstimate(np.clip(refined, 0, 1), airlight)


# Fitted by the authors on 500 rendered pictures (their section 4.2): intercept, value, saturation.
_ATTENUATION = (0.121779, 0.959710, -0.780245)


def estimate_by_color_attenuation(
    hazy: Array, *, patch: int = 15, radius: int = 60, epsilon: float = 1e-3, beta: float = 1.0
) -> HazeEstimate:
    """Transmission and airlight by the colour attenuation prior.

        d = .121779 + .959710 v - .780245 s,    t = exp(-beta d)

    with value v and saturation s of HSV; d is taken as the smallest within a patch and refined by
    a guided filter. A is the brightest pixel among the .1 % deepest. The publication draws the
    residual of d from a normal distribution; here it is its mean, 0, so that the same photo always
    gives the same result.

    Args:
        hazy: (H, W, 3) float32 in [0, 1].
        patch: the minimum filter's window, in pixels.
        radius: the guided filter's, in pixels.
        epsilon: the guided filter's regularisation.
        beta: the scattering coefficient.

    Returns:
        t (H, W), in [.1, .9], and A (3,).

    Raises:
        ValueError: not float32 (H, W, 3).

    Source: Zhu, Mai and Shao, "A Fast Single Image Haze Removal Algorithm Using Color Attenuation
    Prior", IEEE Transactions on Image Processing 24(11), 2015.
    """
    hazy = checked(hazy)
    value = hazy.max(axis=2)
    saturation = (value - hazy.min(axis=2)) / np.maximum(value, np.float32(1e-6))
    intercept, of_value, of_saturation = (np.float32(theta) for theta in _ATTENUATION)
    depth = np.asarray(intercept + of_value * value + of_saturation * saturation, np.float32)
    depth = minimum_filter(depth, patch)
    airlight = _brightest_among(hazy, depth, 0.001)
    refined = guided_filter(_grey(hazy), depth, radius, epsilon, subsample=thinning(hazy))
    return HazeEstimate(np.clip(np.exp(-np.float32(beta) * refined), 0.1, 0.9), airlight)


PRIORS = Registry[ClassicalMethod]("prior")
PRIORS.register(
    "dcp",
    ClassicalMethod(
        "dcp",
        "dark channel prior",
        "He, Sun and Tang 2009, 2013",
        RemovalByEstimate(estimate_by_dark_channel, t_min=0.1),
        estimate_by_dark_channel,
    ),
)
PRIORS.register(
    "cap",
    ClassicalMethod(
        "cap",
        "colour attenuation prior",
        "Zhu, Mai and Shao 2015",
        RemovalByEstimate(estimate_by_color_attenuation, t_min=0.1),
        estimate_by_color_attenuation,
    ),
)
