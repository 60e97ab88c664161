"""Haze maps against SciPy, and the errors of transmission and airlight on made-up truths."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from dehaze.eval.haze_maps import compare_airlights, compare_transmissions, density_correlation


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), levels=st.integers(2, 40))
def test_the_correlation_is_scipys_with_ties(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    attention = rng.integers(0, levels, (9, 11)).astype(np.float32)
    transmission = np.clip(rng.normal(0.5, 0.2, (9, 11)).round(1), 0, 1).astype(np.float32)
    expected = spearmanr(attention.ravel(), 1 - transmission.ravel().astype(np.float64)).statistic
    assert density_correlation(attention, transmission) == pytest.approx(expected, abs=1e-12)


def test_only_the_order_of_the_attention_counts() -> None:
    transmission = np.linspace(0.1, 0.9, 60, dtype=np.float32).reshape(6, 10)
    attention = np.exp(-5 * transmission)
    assert density_correlation(attention, transmission) == pytest.approx(1.0)
    assert density_correlation(-attention, transmission) == pytest.approx(-1.0)


def test_a_constant_map_has_no_order() -> None:
    transmission = np.linspace(0, 1, 12).reshape(3, 4)
    assert math.isnan(density_correlation(np.ones((3, 4)), transmission))
    assert math.isnan(density_correlation(transmission, np.ones((3, 4))))


def test_maps_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 4\) and \(4, 3\)"):
        density_correlation(np.ones((3, 4)), np.ones((4, 3)))
    with pytest.raises(ValueError, match="two maps"):
        compare_transmissions(np.ones(4), np.ones(4))


def test_transmission_error_on_known_differences() -> None:
    truth = np.full((2, 2), 0.5)
    error = compare_transmissions(truth + np.array([[0.1, -0.1], [0.3, 0.1]]), truth)
    assert error.mean_absolute_error == pytest.approx(0.15)
    assert error.root_mean_square_error == pytest.approx(math.sqrt(0.12 / 4))
    assert error.bias == pytest.approx(0.1)


def test_airlight_error_tells_brightness_from_colour() -> None:
    truth = np.array([0.8, 0.8, 0.8])
    darker = compare_airlights(truth / 2, truth)
    assert darker.mean_absolute_error == pytest.approx(0.4)
    assert darker.angle == pytest.approx(0.0, abs=1e-6)
    assert compare_airlights(np.array([1.0, 0, 0]), np.array([0, 1.0, 0])).angle == pytest.approx(
        90
    )
    assert math.isnan(compare_airlights(np.zeros(3), truth).angle)
    with pytest.raises(ValueError, match=r"\(3,\)"):
        compare_airlights(np.zeros(4), truth)
