"""Training pairs of picture and caption: clear photos, haze rendered over them, words swapped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dehaze.datasets.appearance import render_appearance
from dehaze.datasets.synthesis import (
    HAZE_KINDS,
    pseudo_depth,
    render_haze,
    room_depth,
    with_overcast_sky,
)
from training.captions import Caption, appearance_caption, clear_caption, hazy_caption

Array = NDArray[np.float32]

# Kept in memory at this short side: large enough for crops, small enough for any machine.
CACHE_SHORT_SIDE = 160
# Working sizes (height, width) of a batch: the aspect ratios that cameras make.
WORKING_SIZES = ((32, 48), (48, 32), (32, 44), (32, 32), (32, 56))
WORKING_SIZE_WEIGHTS = (0.45, 0.15, 0.2, 0.1, 0.1)

# Of the pairs; the others are haze.
APPEARANCE_SHARE = 0.15
# Colours that are gone and edges that are blurred can hardly be had back at this size.
APPEARANCE_WEIGHTS = {
    "night": 0.21,
    "sunset": 0.21,
    "snow": 0.21,
    "rain": 0.21,
    "black and white": 0.11,
    "blur": 0.05,
}


@dataclass(frozen=True)
class Example:
    """A picture, its caption, and whether the haze word of the caption is swapped for null text."""

    picture: Array
    caption: Caption
    swapped: bool


@dataclass(frozen=True)
class Pair:
    """A degraded picture, its caption, and the clear photo behind it."""

    degraded: Array
    clear: Array
    caption: Caption


def list_photos(data: Path) -> list[Path]:
    """The photos to train on: BSDS500's train split and SUN-Hays 80.

    BSDS500's validation photos are kept for choosing, its test photos for judging.

    Raises:
        FileNotFoundError: the folder does not hold them.
    """
    split = data / "bsds500" / "train.txt"
    if not split.is_file():
        raise FileNotFoundError(f"{split} is missing: --data wants bsds500/ and sun_hays80/ in it")
    photos = [data / "bsds500" / line for line in split.read_text().split()]
    photos += sorted((data / "sun_hays80").glob("*.*"))
    return photos


def load_photos(paths: Iterable[Path], short_side: int = CACHE_SHORT_SIDE) -> list[Array]:
    """Reads photos as float32 (H, W, 3) RGB in [0, 1], reduced to ``short_side``."""
    photos = []
    for path in paths:
        stored = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if stored is None:
            raise ValueError(f"{path} is not a photo that can be read")
        scale = short_side / min(stored.shape[:2])
        size = (round(stored.shape[1] * scale), round(stored.shape[0] * scale))
        reduced = cv2.resize(stored, size, interpolation=cv2.INTER_AREA)
        photos.append(np.ascontiguousarray(reduced[..., ::-1], dtype=np.float32) / 255.0)
    return photos


def draw_working_size(rng: np.random.Generator) -> tuple[int, int]:
    """One of the working sizes (height, width)."""
    return WORKING_SIZES[int(rng.choice(len(WORKING_SIZES), p=WORKING_SIZE_WEIGHTS))]


def draw_clear(photos: list[Array], size: tuple[int, int], rng: np.random.Generator) -> Array:
    """A random crop of a random photo at ``size``, sometimes mirrored, its colours varied."""
    photo = photos[int(rng.integers(len(photos)))]
    height, width = photo.shape[:2]
    largest = min(height / size[0], width / size[1])
    scale = largest * float(np.sqrt(rng.uniform(0.3, 1.0)))
    crop_height, crop_width = int(scale * size[0]), int(scale * size[1])
    top = int(rng.integers(height - crop_height + 1))
    left = int(rng.integers(width - crop_width + 1))
    crop = photo[top : top + crop_height, left : left + crop_width]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    clear = cv2.resize(crop, size[::-1], interpolation=cv2.INTER_AREA)
    return vary_colours(clear, rng)


def with_contrast(clear: Array, factor: float) -> Array:
    """The photo's differences from its mean times ``factor``, clipped to [0, 1]."""
    middle = float(clear.mean())
    return np.clip(middle + factor * (clear - middle), 0.0, 1.0).astype(np.float32)


def vary_colours(clear: Array, rng: np.random.Generator) -> Array:
    """Varies exposure, gamma, contrast, saturation and white balance as cameras and editors do.

    Half of the photos gain up to 60 % of contrast: BSDS500's are scans of slides, duller than what
    a camera makes of a clear day, and a model that knows only them leaves a rest of the veil.
    """
    if rng.random() < 0.5:
        clear = with_contrast(clear, float(rng.uniform(1.0, 1.6)))
    grey = clear.mean(axis=2, keepdims=True)
    varied = grey + float(rng.uniform(0.75, 1.25)) * (clear - grey)
    varied = np.clip(varied, 0.0, 1.0) ** float(np.exp(rng.normal(0.0, 0.12)))
    balance = np.exp(rng.normal(0.0, 0.03, 3)) * float(np.exp(rng.normal(0.0, 0.08)))
    return np.clip(varied * balance, 0.0, 1.0).astype(np.float32)


def draw_example(photos: list[Array], size: tuple[int, int], rng: np.random.Generator) -> Example:
    """One training example.

    Half are hazy under a caption that says so; three in ten are clear under such a caption with the
    haze word swapped for null text, which is what the swap asks the network for; the rest are
    clear under a clear caption, or anything under the empty one.
    """
    clear = draw_clear(photos, size, rng)
    chance = float(rng.random())
    if chance < 0.3:
        return Example(clear, hazy_caption(rng), swapped=True)
    if chance < 0.45:
        return Example(clear, clear_caption(rng), swapped=False)
    caption = hazy_caption(rng)
    density = None
    if caption.density is not None:
        density = float(rng.uniform(*caption.density))
    hazy = render_haze(clear, rng, kind=caption.kind or "haze", density=density).hazy
    noise = rng.normal(0.0, float(rng.uniform(0.0, 0.006)), hazy.shape)
    picture = np.clip(hazy + noise, 0.0, 1.0).astype(np.float32)
    if chance > 0.96:
        return Example(picture, Caption(""), swapped=False)
    return Example(picture, caption, swapped=False)


def draw_pair(photos: list[Array], size: tuple[int, int], rng: np.random.Generator) -> Pair:
    """Haze of any kind, or another appearance, over any photo, under a caption that names it."""
    if rng.random() < APPEARANCE_SHARE:
        degraded, clear, caption = _draw_appearance(photos, size, rng)
    else:
        degraded, clear, caption = _draw_haze(photos, size, rng)
    noise = rng.normal(0.0, float(rng.uniform(0.0, 0.006)), degraded.shape)
    noisy = np.clip(degraded + noise, 0.0, 1.0).astype(np.float32)
    return Pair(noisy, np.clip(clear, 0.0, 1.0).astype(np.float32), caption)


def _draw_haze(
    photos: list[Array], size: tuple[int, int], rng: np.random.Generator
) -> tuple[Array, Array, Caption]:
    """Half the captions are the pipeline's default one, under which a user's photo comes without a
    word on its density: one in eight of these is clear already.
    """
    clear = draw_clear(photos, size, rng)
    if rng.random() < 0.6:
        clear = with_overcast_sky(clear, rng)
    kinds = HAZE_KINDS.names()
    density: float | None = None
    if rng.random() < 0.5:
        caption = Caption("a photo with haze", "haze", "haze")
        kind = "haze" if rng.random() < 0.5 else kinds[int(rng.integers(len(kinds)))]
        clear_already = rng.random() < 0.125
        density = float(rng.uniform(0.0, 0.04) if clear_already else rng.uniform(0.04, 0.92))
    else:
        caption = hazy_caption(rng)
        kind = caption.kind or "haze"
        if caption.density is not None:
            density = float(rng.uniform(*caption.density))
    depth = pseudo_depth(clear, rng)
    if rng.random() < 0.3:
        # Things stand before the walls: what a photo's colours say of depth stays in a part.
        depth = room_depth(clear.shape[:2], rng) * depth ** float(rng.uniform(0.0, 0.6))
    hazy = render_haze(clear, rng, kind=kind, density=density, depth=depth).hazy
    if rng.random() < 0.15:
        # Dusk, shade, a coloured light: less light on the scene is less light on its air.
        light = float(rng.uniform(0.3, 0.9)) * np.exp(rng.normal(0.0, 0.06, 3)).astype(np.float32)
        hazy, clear = hazy * light, clear * light
    return hazy, clear, caption


def _draw_appearance(
    photos: list[Array], size: tuple[int, int], rng: np.random.Generator
) -> tuple[Array, Array, Caption]:
    """Rendered at four times the size: flakes and streaks are smaller than a working pixel."""
    word = str(rng.choice(list(APPEARANCE_WEIGHTS), p=list(APPEARANCE_WEIGHTS.values())))
    large = draw_clear(photos, (4 * size[0], 4 * size[1]), rng)
    rendered = render_appearance(large, word, rng)
    degraded, clear = (
        cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)
        for picture in (rendered.picture, rendered.clear)
    )
    return degraded, clear, appearance_caption(word, rng)
