from __future__ import annotations

import numpy as np
import pytest

from dehaze.datasets.synthesis import room_planes
from training.collage import draw_outline, draw_room, with_things_before
from training.data import draw_pair


@pytest.mark.parametrize("shape", [(32, 48), (48, 32)])
def test_an_outline_covers_a_part_of_the_frame_with_soft_edges(shape: tuple[int, int]) -> None:
    outlines = [draw_outline(shape, np.random.default_rng(k)) for k in range(100)]
    for outline in outlines:
        assert outline.shape == shape
        assert outline.dtype == np.float32
        assert 0 <= outline.min() <= outline.max() <= 1
        # At most .7 of the short side high and wide, and its own tilt.
        assert outline.sum() <= (0.7 * min(shape) + 1) ** 2
    assert any(((outline > 0) & (outline < 1)).any() for outline in outlines)
    # Its middle is anywhere: no part of the frame is left out.
    assert (np.max(outlines, axis=0) > 0).mean() > 0.95


def test_things_stand_before_what_they_hide() -> None:
    clear = np.zeros((32, 48, 3), dtype=np.float32)
    depth = np.linspace(1.0, 3.0, 32 * 48, dtype=np.float32).reshape(32, 48)
    changed = []
    for seed in range(50):
        rng = np.random.default_rng(seed)
        scene, nearer = with_things_before(clear, depth, lambda: np.ones_like(clear), rng)
        assert scene.shape == clear.shape
        assert nearer.shape == depth.shape
        covered = scene[..., 0] > 0
        assert np.array_equal(nearer[~covered], depth[~covered])
        assert (nearer[covered] < depth[covered]).all()
        assert nearer.min() > 0
        changed.append(covered.mean())
    assert 0.05 < np.mean(changed) < 0.7
    assert not clear.any()


def test_each_thing_has_a_surface_of_its_own() -> None:
    clear = np.zeros((32, 32, 3), dtype=np.float32)
    values = iter(np.linspace(0.2, 1.0, 20))
    rng = np.random.default_rng(0)
    scene, _ = with_things_before(
        clear,
        np.ones((32, 32), dtype=np.float32),
        lambda: np.full_like(clear, next(values)),
        rng,
    )
    shown = [value for value in np.linspace(0.2, 1.0, 20) if (abs(scene - value) < 1e-6).any()]
    assert len(shown) >= 2


def test_training_pairs_hold_things_before_scenes() -> None:
    """Of grey photos a sky changes whole rows alike: two values in a row are a thing's."""
    photos = [np.full((160, 240, 3), value, dtype=np.float32) for value in (0.2, 0.4, 0.6)]
    rng = np.random.default_rng(0)
    drawn = [draw_pair(photos, (32, 48), rng) for _ in range(300)]
    hazes = [pair for pair in drawn if pair.caption.word in ("haze", "fog", "mist", "smog")]
    collages = [pair for pair in hazes if np.ptp(pair.clear.mean(axis=2), axis=1).max() > 0.02]
    assert 0.15 < len(collages) / len(hazes) < 0.45


def test_a_room_has_pale_walls_things_in_it_and_haze_of_their_distance() -> None:
    """Surfaces of pure green: what is not green is plane, and no plane is nearer than a thing."""
    shape = (32, 48)
    green = np.zeros((*shape, 3), dtype=np.float32)
    green[..., 1] = 0.9
    paints, shares = [], []
    for seed in range(60):
        room, depth = draw_room(shape, lambda: green, np.random.default_rng(seed))
        empty, planes = room_planes(shape, np.random.default_rng(seed))
        assert room.shape == (*shape, 3)
        assert room.dtype == depth.dtype == np.float32
        assert 0 <= room.min() <= room.max() <= 1
        assert (depth > 0).all()
        assert (depth <= empty + 1e-6).all()
        bare = (room[..., 0] > 0.02) & (depth == empty)
        shares.append(bare.mean())
        ceiling, floor = (room[bare & (planes == plane)].mean(axis=-1) for plane in (1, 0))
        if len(ceiling) and len(floor):
            paints.append((ceiling.mean(), floor.mean()))
    assert 0.3 < np.mean(shares) < 0.95
    above, below = np.mean(paints, axis=0)
    assert above > 1.5 * below
