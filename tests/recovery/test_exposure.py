"""The curve that lightens a result, and how far it goes."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dehaze.recovery.exposure import STEEPEST, keep_exposure, lighten, slope_to_photo

LUMA = np.array([0.299, 0.587, 0.114])


def scene(seed: int = 0, low: float = 0.0, high: float = 0.6) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(low, high, (40, 60, 3)).astype(np.float32)


@given(st.floats(0.01, 0.99), st.floats(0.25, 4.0))
def test_odds_are_multiplied(value: float, slope: float) -> None:
    grey = np.full((1, 1, 3), value, np.float32)
    made = float(lighten(grey, slope)[0, 0, 0])
    assert made / (1 - made) == pytest.approx(slope * value / (1 - value), rel=1e-3)


@given(st.tuples(*[st.floats(0, 1, width=32)] * 3), st.floats(0.25, 4.0))
def test_nothing_clips_and_hue_and_saturation_stay(
    colour: tuple[float, float, float], slope: float
) -> None:
    made = lighten(np.array([[colour]], np.float32), slope)[0, 0].astype(float)
    assert made.min() >= 0
    assert made.max() <= 1
    hue, saturation, value = colorsys.rgb_to_hsv(*colour)
    if saturation > 0.01 and value > 0.01:
        made_hue, made_saturation, _ = colorsys.rgb_to_hsv(*made)
        assert made_saturation == pytest.approx(saturation, abs=1e-3)
        assert min(abs(made_hue - hue), 1 - abs(made_hue - hue)) < 1e-2


@pytest.mark.parametrize("slope", [0.25, 1.0, 4.0])
def test_black_and_white_stay(slope: float) -> None:
    ends = np.array([[[0, 0, 0], [1, 1, 1]]], np.float32)
    np.testing.assert_array_equal(lighten(ends, slope), ends)


def test_the_mean_luma_becomes_the_photos() -> None:
    photo = scene(1, 0.2, 0.7)
    kept = keep_exposure(scene(), photo, 1.0)
    assert float((kept @ LUMA).mean()) == pytest.approx(float((photo @ LUMA).mean()), abs=1e-4)


def test_a_scene_as_light_as_its_photo_stays() -> None:
    np.testing.assert_allclose(keep_exposure(scene(), scene(), 1.0), scene(), atol=1e-6)


def test_an_exposure_of_0_changes_nothing() -> None:
    given_scene = scene()
    assert keep_exposure(given_scene, scene(1, 0.5, 1.0), 0.0) is given_scene


def test_half_an_exposure_twice_equals_the_whole() -> None:
    """Odds are multiplied, so that shares are powers of the slope."""
    dark, photo = scene(0, 0.0, 0.3), scene(1, 0.2, 0.5)
    slope = slope_to_photo(dark, photo)
    assert slope > 2.0
    half = keep_exposure(dark, photo, 0.5)
    expected = keep_exposure(dark, photo, 1.0)
    np.testing.assert_allclose(lighten(half, slope**0.5), expected, atol=1e-5)


def test_a_greater_share_is_lighter() -> None:
    photo = scene(1, 0.4, 0.9)
    means = [float(keep_exposure(scene(), photo, share).mean()) for share in (0, 0.3, 0.7, 1)]
    assert means == sorted(means)
    assert means[0] < means[-1]


def test_the_slope_is_bounded() -> None:
    black, white = np.full((4, 4, 3), 0.01, np.float32), np.ones((4, 4, 3), np.float32)
    assert slope_to_photo(black, white) == pytest.approx(STEEPEST)
    assert slope_to_photo(white * 0.99, black) == pytest.approx(1 / STEEPEST)


def test_sizes_and_slopes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="the photo"):
        slope_to_photo(scene(), scene()[:-1])
    for slope in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="slope"):
            lighten(scene(), slope)
