"""Words for how a photo looks, rendered over clear photos: haze, night, sunset, snow and others.

The renderings are simple procedures, not faithful weather. A benchmark of editing uses them, since
the clear photo is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dehaze.datasets.synthesis import render_haze, smooth_noise
from dehaze.luma import luma
from dehaze.recovery.scattering import scatter
from dehaze.registry import Registry

Array = NDArray[np.float32]

_DISPLAY_GAMMA = 2.2


@dataclass(frozen=True)
class Appearance:
    """A word for how a photo looks.

    Attributes:
        word: the word (or phrase) itself.
        prompt: the plain prompt with the word in it.
        render: renders it over a clear photo, float32 (H, W, 3) in [0, 1]; the second argument is
            the random number generator.
    """

    word: str
    prompt: str
    render: Callable[[Array, np.random.Generator], Array]


@dataclass(frozen=True)
class RenderedAppearance:
    """A photo with a word's appearance, and the clear photo behind it.

    Attributes:
        picture: float32 (H, W, 3) in [0, 1].
        clear: float32 (H, W, 3) in [0, 1], the photo that was given.
        word: a name of ``APPEARANCES``.
        prompt: the plain prompt with the word in it.
    """

    picture: Array
    clear: Array
    word: str
    prompt: str


def _haze(clear: Array, rng: np.random.Generator) -> Array:
    return render_haze(clear, rng).hazy


def _night(clear: Array, rng: np.random.Generator) -> Array:
    """3 to 15 % of the light, and bluer: moonlight, in linear light."""
    light = float(rng.uniform(0.03, 0.15)) * np.array([0.75, 0.9, 1.2], dtype=np.float32)
    return np.asarray((clear**_DISPLAY_GAMMA * light) ** (1.0 / _DISPLAY_GAMMA))


def _sunset(clear: Array, rng: np.random.Generator) -> Array:
    """30 to 60 % of the light, red to orange, and a glow that falls off from a point of the sky."""
    height, width = clear.shape[:2]
    light = float(rng.uniform(0.3, 0.6)) * np.array([1.25, 0.75, 0.4], dtype=np.float32)
    lit = clear**_DISPLAY_GAMMA * light
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32) / min(height, width)
    row = float(rng.uniform(0.1, 0.4)) * height / min(height, width)
    column = float(rng.uniform(0.2, 0.8)) * width / min(height, width)
    distance = np.hypot(rows - row, columns - column)
    glow = float(rng.uniform(0.15, 0.35)) * np.exp(-3.0 * distance)
    lit = lit + glow[..., None] * np.array([1.0, 0.55, 0.2], dtype=np.float32)
    return np.asarray(lit ** (1.0 / _DISPLAY_GAMMA))


def _snow(clear: Array, rng: np.random.Generator) -> Array:
    """Light grey haze, white patches that grow towards the ground, and falling flakes."""
    height, width = clear.shape[:2]
    transmission = np.full((height, width), 1.0 - float(rng.uniform(0.1, 0.3)), dtype=np.float32)
    grey = np.full(3, float(rng.uniform(0.75, 0.9)), dtype=np.float32)
    hazy = scatter(clear, transmission, grey)
    rows = np.linspace(0.0, 1.0, height, dtype=np.float32)[:, None]
    patches = smooth_noise((height, width), int(rng.integers(6, 12)), rng)
    ground = 1.0 / (1.0 + np.exp(-4.0 * (patches + 3.0 * rows - float(rng.uniform(1.8, 2.6)))))
    cover = 0.8 * ground + _flakes((height, width), rng)
    return scatter(
        hazy,
        1.0 - np.clip(cover, 0.0, 0.9).astype(np.float32),
        np.full(3, 0.95, dtype=np.float32),
    )


def _rain(clear: Array, rng: np.random.Generator) -> Array:
    """Half the colour, two thirds of the light, grey haze, and streaks."""
    height, width = clear.shape[:2]
    grey = luma(clear)[..., None]
    dull = float(rng.uniform(0.55, 0.75)) * (grey + 0.5 * (clear - grey))
    transmission = np.full((height, width), 1.0 - float(rng.uniform(0.15, 0.35)), dtype=np.float32)
    wet = scatter(
        dull.astype(np.float32), transmission, np.full(3, rng.uniform(0.45, 0.6), np.float32)
    )
    seeds = (rng.random((height, width)) > 0.985).astype(np.float32)
    length = max(3, min(height, width) // 12)
    kernel = np.zeros((length, length), dtype=np.float32)
    lean = int(rng.integers(0, max(1, length // 3) + 1))
    cv2.line(kernel, (lean, 0), (0, length - 1), 1.0)
    streaks = np.clip(cv2.filter2D(seeds, -1, kernel) * 0.25, 0.0, 0.25)
    return scatter(wet, 1.0 - streaks, np.full(3, 0.85, dtype=np.float32))


def _black_and_white(clear: Array, rng: np.random.Generator) -> Array:
    """The luma of every pixel."""
    return np.repeat(luma(clear)[..., None], 3, axis=2)


def _blur(clear: Array, rng: np.random.Generator) -> Array:
    """A Gaussian of 2 to 5 % of the short side."""
    return np.asarray(
        cv2.GaussianBlur(clear, (0, 0), float(rng.uniform(0.02, 0.05)) * min(clear.shape[:2]))
    )


def _flakes(shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """Soft white dots of about 1 % of the short side, in [0, 1]."""
    radius = max(0.5, 0.006 * min(shape))
    seeds = (rng.random(shape) > 1.0 - 0.02 / radius**2).astype(np.float32)
    dots = cv2.GaussianBlur(seeds, (0, 0), radius) * (2.0 * np.pi * radius**2)
    return np.asarray(np.clip(dots, 0.0, 1.0))


APPEARANCES: Registry[Appearance] = Registry("appearance")
for _appearance in (
    Appearance("haze", "a photo with haze", _haze),
    Appearance("night", "a photo at night", _night),
    Appearance("sunset", "a photo at sunset", _sunset),
    Appearance("snow", "a photo with snow", _snow),
    Appearance("rain", "a photo with rain", _rain),
    Appearance("black and white", "a photo in black and white", _black_and_white),
    Appearance("blur", "a photo with blur", _blur),
):
    APPEARANCES.register(_appearance.word, _appearance)


def render_appearance(clear: Array, word: str, rng: np.random.Generator) -> RenderedAppearance:
    """Renders a word's appearance over a clear photo.

    Args:
        clear: float32 (H, W, 3) in [0, 1].
        word: a name of ``APPEARANCES``.
        rng: the random number generator; the same state gives the same picture.

    Raises:
        UnknownNameError: an unknown word.
    """
    appearance = APPEARANCES.get(word)
    picture = np.clip(appearance.render(clear, rng), 0.0, 1.0).astype(np.float32)
    return RenderedAppearance(picture, clear, word, appearance.prompt)
