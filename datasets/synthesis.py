"""Renders haze over clear photos by the scattering model; returns t and A as well.

Where no depth map is given, one is made up of a ramp, regions that follow the photo's edges, smooth
noise, and a far sky.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dehaze.recovery.scattering import scatter
from dehaze.registry import Registry

Array = NDArray[np.float32]


@dataclass(frozen=True)
class HazeKind:
    """How one kind of haze looks.

    Attributes:
        density: lowest and highest haze density, the mean of 1 - t, that is drawn; in [0, 1).
        brightness: lowest and highest brightness of the airlight that is drawn; in [0, 1].
        tint: the airlight's colour at brightness 1, RGB in [0, 1], with 1 as the largest channel.
        tint_variation: standard deviation of a channel from the tint, as a share of the channel.
        patchiness: probability, in [0, 1], that the haze is not homogeneous.
    """

    density: tuple[float, float]
    brightness: tuple[float, float]
    tint: tuple[float, float, float]
    tint_variation: float
    patchiness: float


HAZE_KINDS: Registry[HazeKind] = Registry("kind of haze")
for _name, _kind in {
    "haze": HazeKind((0.10, 0.95), (0.70, 1.0), (1.0, 1.0, 1.0), 0.02, 0.15),
    "fog": HazeKind((0.30, 0.95), (0.70, 1.0), (1.0, 1.0, 1.0), 0.015, 0.3),
    "mist": HazeKind((0.10, 0.60), (0.65, 0.95), (0.97, 0.99, 1.0), 0.02, 0.4),
    "smog": HazeKind((0.20, 0.90), (0.55, 0.90), (1.0, 0.94, 0.82), 0.04, 0.15),
    "smoke": HazeKind((0.20, 0.90), (0.45, 0.90), (1.0, 0.99, 0.98), 0.03, 0.9),
}.items():
    HAZE_KINDS.register(_name, _kind)

# The lowest and highest haze density, the mean of 1 - t, that each word stands for.
DENSITY_WORDS: dict[str, tuple[float, float]] = {
    "faint": (0.04, 0.20),
    "light": (0.15, 0.40),
    "moderate": (0.35, 0.60),
    "heavy": (0.55, 0.78),
    "dense": (0.72, 0.95),
}


@dataclass(frozen=True)
class RenderedHaze:
    """A hazy photo and the truth behind it.

    Attributes:
        hazy: I, float32 (H, W, 3) in [0, 1].
        clear: J, float32 (H, W, 3) in [0, 1], the photo that was given.
        transmission: t, float32 (H, W) in (0, 1].
        airlight: A, float32 (3,) in [0, 1].
    """

    hazy: Array
    clear: Array
    transmission: Array
    airlight: Array

    @property
    def density(self) -> float:
        """Mean of 1 - t, in [0, 1)."""
        return float(1.0 - self.transmission.mean())


def smooth_noise(shape: tuple[int, int], cells: int, rng: np.random.Generator) -> Array:
    """Smooth noise of mean 0 and standard deviation 1, float32 (H, W).

    Args:
        shape: (H, W).
        cells: about how many bumps fit along the short side.
        rng: the random number generator.
    """
    height, width = shape
    short = min(height, width)
    grid = (max(2, round(cells * height / short)), max(2, round(cells * width / short)))
    coarse = rng.standard_normal(grid, dtype=np.float32)
    noise = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return _standardised(noise)


def pseudo_depth(clear: Array, rng: np.random.Generator) -> Array:
    """A plausible depth map for a photo that has none.

    The logarithm of the depth is a sum, in random proportions, of a ground plane in perspective or
    a tilted ramp, of regions that keep the photo's own edges, and of smooth noise. In seven photos
    of ten, what looks like sky is set far away.

    Args:
        clear: float32 (H, W, 3) in [0, 1].
        rng: the random number generator.

    Returns:
        float32 (H, W), positive, of mean 1.
    """
    height, width = clear.shape[:2]
    rows = np.linspace(0.0, 1.0, height, dtype=np.float32)[:, None]
    columns = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :]
    tilt = float(rng.normal(0.0, 0.25))
    if rng.random() < 0.5:
        horizon = float(rng.uniform(-0.3, 0.5))
        below = np.clip(rows + tilt * columns * 0.3 - horizon, 0.08, None)
        layout = np.log(1.0 / below)
    else:
        layout = -(rows + tilt * columns)
    layout = _standardised(np.broadcast_to(layout, (height, width)).astype(np.float32))
    log_depth = float(rng.uniform(0.2, 0.9)) * layout
    log_depth += float(rng.uniform(0.0, 0.3)) * _regions(clear, rng)
    log_depth += float(rng.uniform(0.0, 0.35)) * smooth_noise(
        (height, width), int(rng.integers(2, 6)), rng
    )
    if rng.random() < 0.7:
        far = float(np.quantile(log_depth, 0.95)) + float(rng.uniform(0.0, 0.8))
        sky = sky_evidence(clear)
        log_depth = (1.0 - sky) * log_depth + sky * far
    depth = np.exp(log_depth)
    return np.asarray(depth / depth.mean(), dtype=np.float32)


def room_depth(shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """The depth of an empty room, or of a street between houses, seen along its axis.

    Floor, ceiling and two walls run towards a vanishing point, and a far wall ends them. On a plane
    at the distance h from the axis, the depth is h / r at the distance r from the vanishing point.

    Args:
        shape: (H, W).
        rng: the random number generator.

    Returns:
        float32 (H, W), positive, of mean 1.
    """
    height, width = shape
    rows = np.linspace(0.0, 1.0, height, dtype=np.float32)[:, None]
    columns = np.linspace(0.0, width / height, width, dtype=np.float32)[None, :]
    above = float(rng.uniform(0.25, 0.65))
    left = float(rng.uniform(0.15, 0.85)) * width / height
    floor, ceiling, left_wall, right_wall = np.exp(rng.normal(0.0, 0.35, 4)) * (1.0, 1.0, 1.5, 1.5)
    nearness = np.maximum(
        np.maximum((rows - above) / floor, (above - rows) / ceiling),
        np.maximum((left - columns) / left_wall, (columns - left) / right_wall),
    )
    depth = 1.0 / np.maximum(nearness, float(rng.uniform(0.1, 0.4)))
    return np.asarray(depth / depth.mean(), dtype=np.float32)


def with_overcast_sky(clear: Array, rng: np.random.Generator, sky: Array | None = None) -> Array:
    """The photo with its sky, where it has one, bright and nearly white.

    A hazy day seldom has a blue sky. A model trained on haze over blue skies would turn every sky
    blue or dark.

    Args:
        clear: float32 (H, W, 3) in [0, 1].
        rng: the random number generator.
        sky: ``sky_evidence`` of the photo; computed when None.

    Returns:
        float32 (H, W, 3) in [0, 1].
    """
    height = clear.shape[0]
    colour = float(rng.uniform(0.75, 1.0)) * (1.0 + rng.normal(0.0, 0.02, 3))
    rows = np.linspace(-0.5, 0.5, height)[:, None, None]
    bright = np.clip(colour + float(rng.normal(0.03, 0.05)) * rows, 0.0, 1.0)
    share = (sky_evidence(clear) if sky is None else sky)[..., None]
    return np.asarray((1.0 - share) * clear + share * bright, dtype=np.float32)


def transmission_of(depth: Array, density: float) -> Array:
    """t = exp(-beta d), with the beta for which the mean of 1 - t is ``density``.

    Args:
        depth: float32 (H, W), positive, any unit.
        density: in [0, 1).

    Returns:
        float32 (H, W) in (0, 1].

    Raises:
        ValueError: the density is outside [0, 1), or a depth is negative or not finite.
    """
    beta = extinction_of(depth, density)
    return np.exp(-beta * depth.astype(np.float64)).astype(np.float32)


def extinction_of(depth: Array, density: float) -> float:
    """beta, per unit of the depth, for which the mean of 1 - exp(-beta d) is ``density``.

    Arguments and errors as for ``transmission_of``.
    """
    if not 0.0 <= density < 1.0:
        raise ValueError(f"density is {density}, outside [0, 1)")
    if not np.isfinite(depth).all() or float(depth.min()) < 0 or float(depth.max()) <= 0:
        raise ValueError("depth must be finite, not negative, and somewhere positive")
    scaled = depth.astype(np.float64) / float(depth.mean())
    low, high = 0.0, 1.0
    while 1.0 - np.exp(-high * scaled).mean() < density and high < 1e6:
        high *= 2.0
    for _ in range(30):
        beta = 0.5 * (low + high)
        if 1.0 - np.exp(-beta * scaled).mean() < density:
            low = beta
        else:
            high = beta
    return 0.5 * (low + high) / float(depth.mean())


def draw_airlight(kind: HazeKind, rng: np.random.Generator) -> Array:
    """A, float32 (3,) in [0, 1]: the kind's tint, slightly varied, at a random brightness."""
    brightness = float(rng.uniform(*kind.brightness))
    deviation = rng.normal(0.0, kind.tint_variation, 3)
    colour = np.asarray(kind.tint) * (1.0 + deviation - deviation.mean())
    return np.clip(brightness * colour, 0.0, 1.0).astype(np.float32)


def render_haze(
    clear: Array,
    rng: np.random.Generator,
    *,
    kind: str = "haze",
    density: float | None = None,
    depth: Array | None = None,
    homogeneous: bool | None = None,
) -> RenderedHaze:
    """Renders haze over a clear photo: I = J t + A (1 - t), t = exp(-beta d).

    Args:
        clear: J, float32 (H, W, 3) in [0, 1].
        rng: the random number generator; the same state gives the same haze.
        kind: a name of ``HAZE_KINDS``.
        density: mean of 1 - t, in [0, 1); drawn within the kind's bounds when None.
        depth: float32 (H, W), positive; made up by ``pseudo_depth`` when None.
        homogeneous: whether the haze depends on depth alone; drawn by the kind's ``patchiness``
            when None.

    Raises:
        ValueError: an unknown kind, a density outside [0, 1), a depth of another size.

    Source: Koschmieder 1924; Narasimhan and Nayar, "Vision and the Atmosphere", 2002.
    """
    look = HAZE_KINDS.get(kind)
    if density is None:
        # A beta distribution between the kind's bounds makes middle densities the most frequent.
        low, high = look.density
        density = low + (high - low) * float(rng.beta(2.4, 2.0))
    if depth is None:
        depth = pseudo_depth(clear, rng)
    elif depth.shape != clear.shape[:2]:
        raise ValueError(f"depth is {depth.shape} and the photo is {clear.shape[:2]}")
    if homogeneous is None:
        homogeneous = bool(rng.random() >= look.patchiness)
    if not homogeneous:
        patches = smooth_noise(clear.shape[:2], int(rng.integers(2, 5)), rng)
        depth = depth * np.exp(float(rng.uniform(0.2, 0.7)) * patches)
    transmission = transmission_of(depth, density)
    airlight = draw_airlight(look, rng)
    return RenderedHaze(scatter(clear, transmission, airlight), clear, transmission, airlight)


def _standardised(values: Array) -> Array:
    deviation = float(values.std())
    return np.asarray((values - values.mean()) / max(deviation, 1e-6), dtype=np.float32)


def _regions(clear: Array, rng: np.random.Generator) -> Array:
    """Piecewise smooth values that change where the photo's colours change."""
    direction = rng.standard_normal(3).astype(np.float32)
    projected = cv2.GaussianBlur(clear @ direction, (0, 0), max(1.0, min(clear.shape[:2]) / 20))
    levels = int(rng.integers(3, 7))
    ranks = np.digitize(projected, np.quantile(projected, np.linspace(0, 1, levels + 1)[1:-1]))
    values = rng.standard_normal(levels).astype(np.float32)[ranks]
    return _standardised(cv2.GaussianBlur(values, (0, 0), max(0.6, min(clear.shape[:2]) / 30)))


def sky_evidence(clear: Array) -> Array:
    """How much each pixel looks like sky: bright, not warm, smooth, and high up.

    Args:
        clear: float32 (H, W, 3) in [0, 1].

    Returns:
        float32 (H, W) in [0, 1].
    """
    height = clear.shape[0]
    rows = np.linspace(0.0, 1.0, height, dtype=np.float32)[:, None]
    scale = max(1.0, min(clear.shape[:2]) / 40)
    soft = cv2.GaussianBlur(clear, (0, 0), scale)
    brightness = soft.mean(axis=2)
    coolness = soft[..., 2] - soft[..., 0]
    detail = cv2.GaussianBlur(np.abs(clear - soft).mean(axis=2), (0, 0), 2 * scale)
    evidence = 8.0 * (brightness - 0.5) + 10.0 * coolness - 60.0 * detail - 6.0 * (rows - 0.35)
    return np.asarray(1.0 / (1.0 + np.exp(-2.0 * evidence)), dtype=np.float32)
