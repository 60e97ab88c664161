"""Scenes whose depth is known because they are put together: rooms, and things in front.

The depth made up for a photo follows the photo. A model that learns from it alone reads the veil
off what a scene looks like; a piece pasted before the scene has the haze of its own distance,
whatever is on it, and only its contrast and its darkest colours tell. The painted walls of a room
teach that what is bright and without colour need not be haze; few of the photos have any.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from dehaze.datasets.synthesis import room_planes, smooth_noise

Array = NDArray[np.float32]

DrawSurface = Callable[[], Array]
"""Draws the picture on a thing, float32 (H, W, 3) in [0, 1]."""

# Outlines are drawn at this multiple of the size, for edges that cover a part of a pixel.
OVERSAMPLING = 4


def draw_outline(shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """The coverage of a thing's picture, float32 (H, W) in [0, 1]: a tilted box or a round shape.

    Its middle is anywhere in the frame, its height and width .15 to .7 of the short side.
    """
    short = min(shape)
    centre = rng.uniform(0.0, 1.0, 2) * (shape[1], shape[0])
    extent = 0.5 * short * rng.uniform(0.15, 0.7, 2)
    if rng.random() < 0.5:
        corners = np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])
    else:
        angles = np.sort(rng.uniform(0.0, 2.0 * np.pi, int(rng.integers(5, 12))))
        corners = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        corners *= rng.uniform(0.6, 1.0, (len(angles), 1))
    turn = float(rng.normal(0.0, 0.15))
    rotation = np.array([(np.cos(turn), -np.sin(turn)), (np.sin(turn), np.cos(turn))])
    points = (centre + (corners * extent) @ rotation) * OVERSAMPLING
    drawn = np.zeros((shape[0] * OVERSAMPLING, shape[1] * OVERSAMPLING), dtype=np.float32)
    cv2.fillPoly(drawn, [np.round(points).astype(np.int32)], 1.0)
    reduced = cv2.resize(drawn, (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(reduced, dtype=np.float32)


def with_things_before(
    clear: Array, depth: Array, draw_surface: DrawSurface, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Pastes one to five things before a scene, the nearest last.

    Each stands at .1 to .9 of the least depth that it hides.

    Args:
        clear: float32 (H, W, 3) in [0, 1].
        depth: float32 (H, W), positive.
        draw_surface: draws what is on a thing.
        rng: the only source of chance.

    Returns:
        The scene and its depth, of the shapes given.
    """
    for _ in range(int(rng.integers(1, 6))):
        cover = draw_outline(clear.shape[:2], rng)
        if not cover.any():
            continue
        nearer = float(rng.uniform(0.1, 0.9)) * float(depth[cover > 0].min())
        clear = (1.0 - cover[..., None]) * clear + cover[..., None] * draw_surface()
        depth = (1.0 - cover) * depth + cover * nearer
    return clear, depth


def draw_room(
    shape: tuple[int, int], draw_surface: DrawSurface, rng: np.random.Generator
) -> tuple[Array, Array]:
    """A furnished room: painted planes in uneven light, pictures on the walls, things before them.

    Args:
        shape: (H, W).
        draw_surface: draws what is on a picture or a thing, and the texture of a plane.
        rng: the only source of chance.

    Returns:
        The room, float32 (H, W, 3) in [0, 1], and its depth, float32 (H, W), positive.
    """
    depth, planes = room_planes(shape, rng)
    walls = _draw_paint(rng, 0.35, 1.0)
    floor = _draw_paint(rng, 0.1, 0.7)
    ceiling = _draw_paint(rng, 0.6, 1.0)
    room = np.stack([floor, ceiling, walls, walls, walls])[planes]
    room *= rng.uniform(0.6, 1.0, 5)[planes][..., None]
    texture = draw_surface().mean(axis=2)
    light = depth ** float(rng.normal(-0.1, 0.2)) * np.exp(
        float(rng.uniform(0.0, 0.2)) * smooth_noise(shape, int(rng.integers(2, 5)), rng)
        + float(rng.uniform(0.0, 1.0)) * (texture - texture.mean())
    )
    room = np.clip(room * light[..., None], 0.0, 1.0).astype(np.float32)
    for _ in range(int(rng.integers(0, 4))):
        cover = draw_outline(shape, rng)[..., None]
        room = (1.0 - cover) * room + cover * draw_surface()
    return with_things_before(room, depth, draw_surface, rng)


def _draw_paint(rng: np.random.Generator, darkest: float, brightest: float) -> Array:
    """A pale colour, oftener warm, float32 (3,), its brightest channel in [darkest, brightest]."""
    colour = np.exp(rng.normal((0.05, 0.0, -0.07), float(rng.uniform(0.02, 0.15))))
    return np.asarray(rng.uniform(darkest, brightest) * colour / colour.max(), dtype=np.float32)
