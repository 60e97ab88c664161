"""Baselines on rendered haze with known truth, and on arbitrary pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.ndimage import grey_closing
from skimage.data import astronaut, chelsea

from dehaze.eval import baselines
from dehaze.eval.metrics import psnr_rgb
from dehaze.recovery.guided_filter import guided_filter

Array = NDArray[Any]
AIRLIGHT = np.array([0.9, 0.92, 0.95], dtype=np.float32)


@pytest.fixture(scope="module")
def scene() -> tuple[Array, Array, Array]:
    """A photo, the same under haze that thickens towards the top, and its transmission."""
    clear = chelsea()[:240, :320].astype(np.float32) / np.float32(255)
    clear = clear**1.5  # dark enough for the dark channel prior to hold
    transmission = np.linspace(0.25, 0.8, 240, dtype=np.float32)[:, None].repeat(320, axis=1)
    sky = clear.copy()
    sky[:30] = AIRLIGHT
    t = transmission[..., None]
    return sky, (sky * t + AIRLIGHT * (1 - t)).astype(np.float32), transmission


@pytest.mark.parametrize("name", baselines.BASELINES.names())
def test_a_baseline_brings_haze_nearer_to_the_truth(
    scene: tuple[Array, Array, Array], name: str
) -> None:
    clear, hazy, _ = scene
    before = hazy.copy()
    result = baselines.BASELINES.get(name).run(hazy)
    assert result.shape == hazy.shape
    assert result.dtype == np.float32
    assert psnr_rgb(255 * result, 255 * clear) > psnr_rgb(255 * hazy, 255 * clear) + 0.5
    np.testing.assert_array_equal(hazy, before)


@pytest.mark.parametrize("name", ["dcp", "cap", "darktable"])
def test_baselines_find_airlight_and_order_of_t(
    scene: tuple[Array, Array, Array], name: str
) -> None:
    _, hazy, transmission = scene
    estimate = baselines.BASELINES.get(name).estimate
    assert estimate is not None
    found = estimate(hazy)
    np.testing.assert_allclose(found.airlight, AIRLIGHT, atol=0.03)
    assert found.transmission.shape == transmission.shape
    assert found.transmission.dtype == np.float32
    assert found.transmission[-60:].mean() > found.transmission[40:100].mean()


@pytest.mark.parametrize("name", baselines.BASELINES.names())
@settings(max_examples=15)
@given(
    hazy=arrays(
        np.float32,
        st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3)),
        elements=st.floats(0, 1, width=32),
    )
)
def test_any_picture_stays_finite_and_in_range(name: str, hazy: Array) -> None:
    result = baselines.BASELINES.get(name).run(hazy)
    assert result.shape == hazy.shape
    assert np.isfinite(result).all()
    assert result.min() >= 0
    assert result.max() <= 1


@pytest.mark.parametrize("name", baselines.BASELINES.names())
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_black_and_white_pictures_survive(name: str, value: float) -> None:
    picture = np.full((60, 70, 3), value, dtype=np.float32)
    assert np.isfinite(baselines.BASELINES.get(name).run(picture)).all()


@pytest.mark.parametrize("name", baselines.BASELINES.names())
@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((4, 4), np.float32),
        np.zeros((4, 4, 4), np.float32),
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.float64),
    ],
)
def test_anything_but_float32_rgb_is_refused(name: str, picture: Array) -> None:
    with pytest.raises(ValueError, match="expected float32"):
        baselines.BASELINES.get(name).run(picture)


def test_photo_editors_transmission_by_hand() -> None:
    hazy = astronaut()[100:180, 100:200].astype(np.float32) / np.float32(255)
    found = baselines.estimate_by_photo_editor(hazy, strength=0.6)
    raw = 1 - np.float32(0.6) * (hazy / found.airlight).min(axis=2)
    closed = grey_closing(raw, size=13, mode="nearest").astype(np.float32)
    filtered = guided_filter(hazy, closed, 9, 0.025)
    inner = (slice(13, -13), slice(13, -13))
    assert (found.transmission[inner] >= filtered[inner] - 1e-5).all()
    unbounded = np.isclose(found.transmission[inner], filtered[inner], atol=1e-5)
    assert 0.1 < unbounded.mean() < 1


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), strength=st.floats(0, 1))
def test_bounds_on_t_keep_channels_in_range(seed: int, strength: float) -> None:
    hazy = np.random.default_rng(seed).random((20, 24, 3), dtype=np.float32)
    found = baselines.estimate_by_photo_editor(hazy, strength=strength)
    t = np.maximum(found.transmission, 1e-6)[..., None]
    restored = (hazy - found.airlight) / t + found.airlight
    assert restored.min() > -1e-3
    assert restored.max() < 1 + 1e-3


def test_the_photo_editors_airlight_does_not_depend_on_the_size() -> None:
    small = np.kron(np.random.default_rng(5).random((16, 96, 3)), np.ones((16, 16, 1))).astype(
        np.float32
    )
    large = np.kron(small, np.ones((2, 2, 1))).astype(np.float32)
    airlights = [baselines.estimate_by_photo_editor(picture).airlight for picture in (small, large)]
    np.testing.assert_allclose(*airlights, atol=0.01)
