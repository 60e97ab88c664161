"""Training pairs: a clear photo, haze or another appearance rendered over it, and a caption.

Pictures are rendered at full size, ``CELL_SIZE`` pixels for each cell, since cells hold the darkest
and brightest pixels. Depth and density are smooth, and are rendered at a quarter of that size.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dehaze.datasets.appearance import render_appearance
from dehaze.datasets.synthesis import (
    HAZE_KINDS,
    RenderedHaze,
    draw_airlight,
    extinction_of,
    pseudo_depth,
    room_depth,
    sky_evidence,
    smooth_noise,
    transmission_of,
    with_overcast_sky,
)
from training.captions import Caption, appearance_caption, hazy_caption
from training.photos import Entry, PhotoCache

Array = NDArray[np.float32]
Bytes = NDArray[np.uint8]

CELL_SIZE = 6
# Working sizes (height, width) of a batch, in cells; the pipeline pads most photos to one of them.
WORKING_SIZES = ((32, 48), (48, 32), (32, 40), (40, 32), (32, 32), (32, 56))
WORKING_SIZE_WEIGHTS = (0.42, 0.1, 0.2, 0.08, 0.1, 0.1)
# A photo of 4 : 3 is 43 cells wide; the pipeline pads it to 48 by mirroring.
MIRRORED_SHARE = 0.4
FOUR_TO_THREE = 43

# Share of pairs with another appearance than haze.
APPEARANCE_SHARE = 0.14
# The last two are rare: lost colours and blurred edges can hardly be recovered at this size.
APPEARANCE_WEIGHTS = {
    "night": 0.21,
    "sunset": 0.21,
    "snow": 0.21,
    "rain": 0.21,
    "black and white": 0.11,
    "blur": 0.05,
}

# Haze whose mean t is smaller is dense; of it, this share is lit unevenly.
DENSE = 0.6
UNEVEN_SHARE = 0.3


@dataclass(frozen=True)
class Pair:
    """A degraded picture, the clear photo behind it, and the caption.

    Attributes:
        degraded: float32 (H, W, 3) in [0, 1]; its cells, (h, w, 9), from ``draw_pair_of_cells``.
        clear: likewise.
        density: the haze's 1 - t, float32 (H, W), or (h / 2, w / 2) as the latents of the cells; 0
            where the picture has another appearance.
        caption: of ``degraded``.
    """

    degraded: Array
    clear: Array
    density: Array
    caption: Caption


@dataclass(frozen=True)
class Scene:
    """A clear photo and its depth.

    Attributes:
        clear: float32 (H, W, 3) in [0, 1].
        depth: float32 (H, W), or None where none was measured.
        metres: the distance at depth 1, in metres; 0 where that is unknown.
        indoor: whether it is a room.
    """

    clear: Array
    depth: Array | None
    metres: float
    indoor: bool


def find_cells(picture: Array) -> Array:
    """The cells, float32 (h, w, 9) in [0, 1], of a picture (H, W, 3); equal to ``CellsCodec``'s.

    OpenCV finds them faster than torch does.
    """
    side = CELL_SIZE
    size = (picture.shape[1] // side, picture.shape[0] // side)
    window = np.ones((side, side), np.uint8)
    found = [cv2.resize(picture, size, interpolation=cv2.INTER_AREA)]
    for reduced in (cv2.erode, cv2.dilate):
        whole = reduced(picture, window, anchor=(side // 2, side // 2))
        found.append(whole[side // 2 :: side, side // 2 :: side])
    return np.concatenate(found, axis=2)


def draw_working_size(rng: np.random.Generator) -> tuple[int, int]:
    """One of the working sizes (height, width), in cells."""
    return WORKING_SIZES[int(rng.choice(len(WORKING_SIZES), p=WORKING_SIZE_WEIGHTS))]


def draw_pair_of_cells(cache: PhotoCache, size: tuple[int, int], rng: np.random.Generator) -> Pair:
    """A pair as cells.

    Args:
        cache: of the photos.
        size: (height, width) in cells; both are even.
        rng: the only source of chance.
    """
    height, width = size
    drawn = size
    if size == (32, 48) and rng.random() < MIRRORED_SHARE:
        drawn = (height, FOUR_TO_THREE)
    pair = draw_pair(cache, (drawn[0] * CELL_SIZE, drawn[1] * CELL_SIZE), rng)
    missing = ((0, 0), (0, width - drawn[1]))
    degraded, clear = (
        np.pad(find_cells(picture), (*missing, (0, 0)), mode="symmetric")
        for picture in (pair.degraded, pair.clear)
    )
    of_cells = cv2.resize(pair.density, drawn[::-1], interpolation=cv2.INTER_AREA)
    density = cv2.resize(
        np.pad(of_cells, missing, mode="symmetric"),
        (width // 2, height // 2),
        interpolation=cv2.INTER_AREA,
    )
    return Pair(degraded, clear, np.asarray(density), pair.caption)


def draw_pair(cache: PhotoCache, size: tuple[int, int], rng: np.random.Generator) -> Pair:
    """Haze of any kind, or another appearance, over any photo, under a caption that names it.

    Args:
        size: (height, width) in pixels.
    """
    scene = draw_scene(cache, size, rng)
    if rng.random() < APPEARANCE_SHARE:
        word = str(rng.choice(list(APPEARANCE_WEIGHTS), p=list(APPEARANCE_WEIGHTS.values())))
        rendered = render_appearance(scene.clear, word, rng)
        picture, none = as_stored(rendered.picture, rng), np.zeros(size, dtype=np.float32)
        return Pair(picture, scene.clear, none, appearance_caption(word, rng))
    haze, caption = _draw_haze(scene, rng)
    return Pair(as_stored(haze.hazy, rng), haze.clear, 1.0 - haze.transmission, caption)


def draw_scene(
    cache: PhotoCache,
    size: tuple[int, int],
    rng: np.random.Generator,
    weights: NDArray[np.float64] | None = None,
) -> Scene:
    """A random crop of a random photo, with varied sharpness and colours.

    Args:
        cache: of the photos.
        size: (height, width) in pixels.
        rng: the only source of chance.
        weights: probability of each photo; the cache's when None.
    """
    chances = cache.weights if weights is None else weights
    index = int(np.searchsorted(np.cumsum(chances), rng.random()))
    index = min(index, len(cache) - 1)
    entry: Entry = cache.entries[index]
    photo, depth = cache.photo(index), cache.depth(index)
    largest = min(entry.height / size[0], entry.width / size[1])
    scale = largest * float(np.sqrt(rng.uniform(0.45, 1.0)))
    crop_height, crop_width = int(scale * size[0]), int(scale * size[1])
    top = int(rng.integers(entry.height - crop_height + 1))
    left = int(rng.integers(entry.width - crop_width + 1))
    window = (slice(top, top + crop_height), slice(left, left + crop_width))
    mirrored = slice(None, None, -1 if rng.random() < 0.5 else 1)
    method = (
        cv2.INTER_AREA if scale > 1.0 else (cv2.INTER_LINEAR, cv2.INTER_CUBIC)[int(rng.integers(2))]
    )
    clear = cv2.resize(photo[window][:, mirrored], size[::-1], interpolation=method)
    clear = vary_colours(vary_sharpness(clear, rng), rng, entry.indoor)
    if depth is not None:
        depth = cv2.resize(depth[window][:, mirrored], size[::-1], interpolation=cv2.INTER_LINEAR)
    return Scene(clear, depth, entry.metres, entry.indoor)


def vary_sharpness(photo: Bytes, rng: np.random.Generator) -> Bytes:
    """Blurs two photos in five and sharpens one in five, as lenses, resizing and cameras do."""
    chance = float(rng.random())
    if chance < 0.4:
        return np.asarray(cv2.GaussianBlur(photo, (0, 0), float(rng.uniform(0.4, 1.4))))
    if chance < 0.6:
        soft = cv2.GaussianBlur(photo, (0, 0), float(rng.uniform(0.7, 1.3)))
        amount = float(rng.uniform(0.3, 1.5))
        return np.asarray(cv2.addWeighted(photo, 1.0 + amount, soft, -amount, 0.0))
    return photo


def vary_colours(photo: Bytes, rng: np.random.Generator, indoor: bool = False) -> Array:
    """Varies range, exposure, contrast, saturation and white balance, as cameras and editors do.

    Rooms are stretched to the full range more often than outdoor views, whose distance is pale even
    on clear days.

    Args:
        photo: uint8 (H, W, 3).
        rng: the only source of chance.
        indoor: whether it shows a room; rooms are also darkened more often.

    Returns:
        float32 (H, W, 3) in [0, 1].
    """
    sampled = photo[::4, ::4]
    chance = float(rng.random())
    slope, intercept = 1.0, 0.0
    stretched, contrasted = (0.55, 0.75) if indoor else (0.05, 0.15)
    if chance < stretched:
        low, high = np.quantile(sampled, (rng.uniform(0.0, 0.02), rng.uniform(0.97, 1.0)))
        slope = 255.0 / max(float(high - low), 25.0)
        intercept = -slope * float(low)
    elif chance < contrasted:
        slope = float(rng.uniform(1.0, 1.6))
        intercept = (1.0 - slope) * float(sampled.mean())
    saturation = float(rng.uniform(0.75, 1.25))
    matrix = np.full((3, 4), (1.0 - saturation) * slope / 3.0)
    matrix[:, :3] += saturation * slope * np.eye(3)
    matrix[:, 3] = intercept
    varied = cv2.transform(photo, matrix)
    gamma = float(np.exp(rng.normal(0.0, 0.15 if indoor else 0.1)))
    if rng.random() < (0.25 if indoor else 0.05):
        gamma *= float(rng.uniform(1.0, 2.0))
    balance = np.exp(rng.normal(0.0, 0.03, 3)) * float(np.exp(rng.normal(0.0, 0.05)))
    if rng.random() < 0.15:
        # Warm light, of lamps and the evening sun.
        balance = balance * (1.0, float(rng.uniform(0.75, 0.97)), float(rng.uniform(0.45, 0.9)))
    levels = np.linspace(0.0, 1.0, 256)[:, None] ** gamma * balance
    table = np.clip(levels, 0.0, 1.0).astype(np.float32)[:, None]
    return np.asarray(cv2.LUT(varied, table))


PLAIN = Caption("a photo with haze", "haze", "haze")
"""The pipeline's default prompt, which says nothing about density."""


def _draw_haze(scene: Scene, rng: np.random.Generator) -> tuple[RenderedHaze, Caption]:
    """Haze under the plain prompt, or one time in two under a caption that says more about it."""
    kinds = HAZE_KINDS.names()
    if rng.random() < 0.5:
        kind = "haze" if rng.random() < 0.6 else kinds[int(rng.integers(len(kinds)))]
        density = draw_plain_density(scene.indoor, rng)
        return render_over(scene, PLAIN, kind, density, rng), PLAIN
    caption = hazy_caption(rng)
    kind = caption.kind or "haze"
    density = float(rng.uniform(*(caption.density or HAZE_KINDS.get(kind).density)))
    return render_over(scene, caption, kind, density, rng), caption


def draw_plain_density(indoor: bool, rng: np.random.Generator) -> float:
    """A mean of 1 - t under the plain prompt; one photo in six is already clear.

    In rooms all densities are equally frequent. Outdoors densities of about 1/3 are the most
    frequent, and one view in ten is in fog.
    """
    if rng.random() < 1 / 6:
        return float(rng.uniform(0.0, 0.04))
    if not indoor and rng.random() < 0.1:
        return float(rng.uniform(0.7, 0.96))
    share = float(rng.random() if indoor else rng.beta(1.3, 1.9))
    return 0.04 + 0.88 * share


def render_over(
    scene: Scene, caption: Caption, kind: str, density: float, rng: np.random.Generator
) -> RenderedHaze:
    """Renders haze over a scene, with random lamps, sky and light.

    Args:
        scene: the clear photo and its depth.
        caption: states the kind of haze, and perhaps bounds of the density, which are kept.
        kind: a name of ``HAZE_KINDS``.
        density: mean of 1 - t. One haze in two is drawn by its extinction per metre instead, where
            the caption states no density and the depth is in metres.
        rng: the only source of chance.
    """
    clear = scene.clear
    if scene.indoor and rng.random() < 0.1:
        clear = _with_lamps(clear, rng)
    size = clear.shape[:2]
    quarter = _quarter(clear)
    if not scene.indoor and rng.random() < 0.35:
        sky = cv2.resize(sky_evidence(quarter), size[::-1], interpolation=cv2.INTER_LINEAR)
        clear = with_overcast_sky(clear, rng, sky)
    transmission = _draw_transmission(scene, quarter, kind, caption, density, rng)
    airlight = _draw_airlight(kind, scene.indoor, rng)
    hazy = _scatter(clear, transmission, airlight)
    if float(transmission.mean()) < DENSE and rng.random() < UNEVEN_SHARE:
        hazy += _uneven_light(transmission, rng) * airlight
    if rng.random() < 0.11:
        # At dusk, in shade or in coloured light, the air is as dark as the scene.
        least = 0.12 if rng.random() < 0.25 else 0.35
        tint = np.exp(rng.normal(0.0, 0.07, 3)).astype(np.float32)
        light = np.float32(rng.uniform(least, 0.95)) * tint
        hazy, clear, airlight = hazy * light, clear * light, np.minimum(airlight * light, 1.0)
    clear = np.clip(clear, 0.0, 1.0).astype(np.float32)
    return RenderedHaze(hazy, clear, transmission, airlight)


def _uneven_light(transmission: Array, rng: np.random.Generator) -> Array:
    """(V - 1) (1 - t), (H, W, 1), of haze that is lit unevenly: I = J t + A V (1 - t).

    V is smooth and about 1. Real fog is brighter above a town or round a lamp, and a lens darkens
    the corners of a photo.
    """
    height, width = transmission.shape
    noise = smooth_noise((height // 4, width // 4), int(rng.integers(2, 5)), rng)
    excess = np.expm1(float(rng.uniform(0.03, 0.2)) * noise)
    enlarged = cv2.resize(excess, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray((enlarged * (1.0 - transmission))[..., None], dtype=np.float32)


def _draw_transmission(
    scene: Scene,
    quarter: Array,
    kind: str,
    caption: Caption,
    density: float,
    rng: np.random.Generator,
) -> Array:
    size = scene.clear.shape[:2]
    small_size = (quarter.shape[0], quarter.shape[1])
    patches = np.ones(small_size, dtype=np.float32)
    if rng.random() < HAZE_KINDS.get(kind).patchiness:
        noise = smooth_noise(small_size, int(rng.integers(2, 5)), rng)
        patches = np.exp(float(rng.uniform(0.2, 0.7)) * noise)
    if scene.depth is None:
        depth = pseudo_depth(quarter, rng)
        if rng.random() < (0.6 if scene.indoor else 0.15):
            # Furniture stands in front of the walls, so part of the depth guessed from colours is
            # kept.
            depth = room_depth(small_size, rng) * depth ** float(rng.uniform(0.0, 0.6))
        small = transmission_of(np.asarray(depth * patches, dtype=np.float32), density)
        enlarged = cv2.resize(small, size[::-1], interpolation=cv2.INTER_LINEAR)
        return np.asarray(enlarged, dtype=np.float32)
    beta = extinction_of(np.asarray(_quarter(scene.depth) * patches, dtype=np.float32), density)
    if scene.metres and caption.density is None and density > 0.04 and rng.random() < 0.5:
        # Extinction per metre; a room is only a few metres deep.
        beta = scene.metres * float(np.exp(rng.uniform(np.log(0.25), np.log(2.2))))
    patched = cv2.resize(patches, size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.exp(-beta * scene.depth * patched).astype(np.float32)


def _draw_airlight(kind: str, indoor: bool, rng: np.random.Generator) -> Array:
    """A of this kind of haze: mostly grey in rooms; one in fourteen has the colour of dust."""
    chance = float(rng.random())
    if chance < 0.07:
        dust = (1.0, float(rng.uniform(0.6, 0.92)), float(rng.uniform(0.25, 0.75)))
        return np.asarray(float(rng.uniform(0.5, 0.95)) * np.array(dust), dtype=np.float32)
    if indoor and chance < 0.65:
        grey = float(rng.uniform(0.7, 1.0)) * (1.0 + rng.normal(0.0, 0.01, 3))
        return np.clip(grey, 0.0, 1.0).astype(np.float32)
    return draw_airlight(HAZE_KINDS.get(kind), rng)


def _with_lamps(clear: Array, rng: np.random.Generator) -> Array:
    """A copy with lamps, or a window, overexposed to white."""
    height, width = clear.shape[:2]
    light = np.zeros((height, width), dtype=np.float32)
    for _ in range(int(rng.integers(1, 4))):
        high, wide = (int(rng.uniform(0.03, 0.3) * height) for _ in range(2))
        top, left = int(rng.integers(height - high)), int(rng.integers(width - wide))
        light[top : top + high, left : left + wide] = 1.0
    soft = cv2.GaussianBlur(light, (0, 0), float(rng.uniform(0.5, 5.0)))[..., None]
    return np.asarray(clear + (1.0 - clear) * soft, dtype=np.float32)


def _scatter(clear: Array, transmission: Array, airlight: Array) -> Array:
    """``dehaze.recovery.scattering.scatter`` with fewer operations: I = A + (J - A) t."""
    colour = tuple(float(channel) for channel in airlight)
    hazy = cv2.subtract(clear, (*colour, 0.0))
    hazy *= cv2.merge([transmission] * 3)
    return np.asarray(cv2.add(hazy, (*colour, 0.0)))


def as_stored(picture: Array, rng: np.random.Generator) -> Array:
    """The picture as a camera stores it: with noise, in eight bits, three times in ten as JPEG."""
    levels = picture * np.float32(255)
    if rng.random() < 0.7:
        start = int(rng.integers(len(_NOISE) - picture.size))
        noise = _NOISE[start : start + picture.size].reshape(picture.shape)
        levels += np.float32(255.0 * rng.uniform(0.0, 0.012)) * noise
    stored = cv2.convertScaleAbs(np.maximum(levels, 0.0, out=levels))
    if rng.random() < 0.3:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 96))]
        _, encoded = cv2.imencode(".jpg", stored, quality)
        stored = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    return np.asarray(stored * np.float32(1.0 / 255.0))


def _quarter(values: Array) -> Array:
    size = (max(1, values.shape[1] // 4), max(1, values.shape[0] // 4))
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA), dtype=np.float32)


# Drawn once, since drawing is slow; each picture's noise is a part of it.
_NOISE = np.random.default_rng(0).standard_normal(2**20, dtype=np.float32)
