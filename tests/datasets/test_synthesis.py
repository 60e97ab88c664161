from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dehaze.datasets.synthesis import (
    HAZE_KINDS,
    pseudo_depth,
    render_haze,
    room_depth,
    sky_evidence,
    smooth_noise,
    transmission_of,
    with_overcast_sky,
)
from dehaze.recovery.scattering import scatter

Array = NDArray[np.float32]


def scene(height: int = 32, width: int = 48) -> Array:
    return np.random.default_rng(0).random((height, width, 3)).astype(np.float32)


@pytest.mark.parametrize("kind", HAZE_KINDS.names())
@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_the_truth_explains_the_picture(kind: str, density: float) -> None:
    rendered = render_haze(scene(), np.random.default_rng(1), kind=kind, density=density)
    expected = scatter(rendered.clear, rendered.transmission, rendered.airlight)
    np.testing.assert_array_equal(rendered.hazy, expected)
    assert rendered.density == pytest.approx(density, abs=1e-4)
    assert 0 < rendered.transmission.min() <= rendered.transmission.max() <= 1
    assert 0 <= rendered.hazy.min() <= rendered.hazy.max() <= 1


def test_the_same_generator_renders_the_same_haze() -> None:
    one, other = (render_haze(scene(), np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one.hazy, other.hazy)
    another = render_haze(scene(), np.random.default_rng(6))
    assert np.abs(another.hazy - one.hazy).max() > 0.01


def test_a_depth_map_is_obeyed() -> None:
    depth = np.repeat(np.linspace(1, 4, 32, dtype=np.float32)[:, None], 48, axis=1)
    arguments: Any = {"density": 0.5, "depth": depth}
    rendered = render_haze(scene(), np.random.default_rng(3), homogeneous=True, **arguments)
    optical = -np.log(rendered.transmission)
    ratio = optical / depth
    assert ratio.std() / ratio.mean() < 1e-3
    patchy = render_haze(scene(), np.random.default_rng(3), homogeneous=False, **arguments)
    ratio = -np.log(patchy.transmission) / depth
    assert ratio.std() / ratio.mean() > 0.1


@given(density=st.floats(0.0, 0.97), seed=st.integers(0, 20))
@settings(max_examples=30)
def test_density_is_the_mean_of_one_minus_t(density: float, seed: int) -> None:
    depth = np.random.default_rng(seed).uniform(0.1, 5.0, (9, 13)).astype(np.float32)
    transmission = transmission_of(depth, density)
    assert 1.0 - transmission.mean() == pytest.approx(density, abs=1e-4)
    order = np.argsort(depth.ravel())
    assert (np.diff(transmission.ravel()[order]) <= 1e-7).all()


@given(height=st.integers(2, 60), width=st.integers(2, 60), seed=st.integers(0, 30))
@settings(max_examples=30)
def test_made_up_depth_is_positive_of_mean_one(height: int, width: int, seed: int) -> None:
    depth = pseudo_depth(scene(height, width), np.random.default_rng(seed))
    assert depth.shape == (height, width)
    assert depth.min() > 0
    assert depth.mean() == pytest.approx(1.0, abs=1e-4)


@given(st.integers(2, 40), st.integers(2, 60), st.integers(0, 10**6))
@settings(max_examples=60)
def test_room_is_deepest_at_its_far_wall(height: int, width: int, seed: int) -> None:
    depth = room_depth((height, width), np.random.default_rng(seed))
    assert depth.shape == (height, width)
    assert depth.dtype == np.float32
    assert depth.min() > 0
    assert depth.mean() == pytest.approx(1.0, rel=1e-4)
    # From the far wall outwards the depth only falls, along every row and column.
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    for falling in (depth[row, column:], depth[row, column::-1], depth[row:, column]):
        assert (np.diff(falling) <= 1e-6).all()
    assert (np.diff(depth[row::-1, column]) <= 1e-6).all()


def test_depth_of_a_rooms_floor_is_inverse_in_its_row() -> None:
    depth = room_depth((64, 64), np.random.default_rng(2))
    inverse = 1.0 / depth[-4:, 32].astype(np.float64)
    steps = np.diff(inverse)
    assert steps.min() > 0
    np.testing.assert_allclose(steps, steps.mean(), rtol=1e-3)


def test_noise_is_standardised_and_smooth() -> None:
    noise = smooth_noise((64, 96), 4, np.random.default_rng(0))
    assert noise.mean() == pytest.approx(0.0, abs=1e-5)
    assert noise.std() == pytest.approx(1.0, abs=1e-5)
    assert np.abs(np.diff(noise, axis=0)).max() < 0.5


@pytest.mark.parametrize(
    ("settings_", "cause"),
    [
        ({"kind": "steam"}, "haze, fog"),
        ({"density": 1.0}, "density"),
        ({"depth": np.ones((2, 2), np.float32)}, "depth"),
        ({"depth": -np.ones((32, 48), np.float32)}, "depth"),
    ],
)
def test_settings_out_of_range_are_named(settings_: dict[str, object], cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        render_haze(scene(), np.random.default_rng(0), **settings_)  # type: ignore[arg-type]


def test_an_overcast_sky_is_bright_and_the_ground_is_left() -> None:
    clear = scene(60, 90) * np.float32(0.5)
    clear[:25] = (0.35, 0.55, 0.95)
    evidence = sky_evidence(clear)
    assert evidence[3:18].min() > 0.8
    assert evidence[45:].max() < 0.1
    overcast = with_overcast_sky(clear, np.random.default_rng(0))
    sky = overcast[3:18].mean((0, 1))
    assert sky.min() > 0.6
    assert np.ptp(sky) < 0.5 * np.ptp(clear[3:18].mean((0, 1)))
    np.testing.assert_allclose(overcast[45:], clear[45:], atol=0.1)
