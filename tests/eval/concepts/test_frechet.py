"""The Fréchet distance against closed forms, and against SciPy's root of a matrix."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from dehaze.eval.concepts.frechet import frechet_caveat, frechet_distance


def whitened(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Rows with the mean 0 and the identity for their covariance, to rounding."""
    values = np.random.default_rng(seed).normal(size=(rows, columns))
    values -= values.mean(0)
    root = np.linalg.cholesky(np.cov(values, rowvar=False))
    return np.asarray(values @ np.linalg.inv(root).T)


def test_scaled_and_moved_features_have_a_closed_form() -> None:
    """Of covariances S = s^2 and T = t^2 that commute it is |m - n|^2 + sum (s - t)^2."""
    features = whitened(40, 3)
    scales, shift = np.array([2.0, 1.0, 0.5]), np.array([1.0, -2.0, 0.0])
    expected = 5.0 + 1.0 + 0.0 + 0.25
    assert frechet_distance(features * scales + shift, features) == pytest.approx(expected)
    assert frechet_distance(features, features) == pytest.approx(0.0, abs=1e-9)


@given(seed=st.integers(0, 100), rows=st.integers(8, 30), columns=st.integers(1, 5))
@settings(max_examples=20)
def test_it_is_the_formula_with_scipys_root(seed: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(rows, columns)) @ rng.normal(size=(columns, columns))
    second = rng.normal(size=(rows + 3, columns)) + 0.5
    s, t = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (first, second))
    root = np.real(sqrtm(s @ t))
    expected = np.square(first.mean(0) - second.mean(0)).sum() + np.trace(s + t - 2 * root)
    found = frechet_distance(first, second)
    assert found == pytest.approx(float(expected), rel=1e-5, abs=1e-6)
    assert found == pytest.approx(frechet_distance(second, first), rel=1e-5, abs=1e-6)


def test_too_few_pictures_are_an_error() -> None:
    features = whitened(9, 4)
    assert math.isnan(frechet_distance(features[:1], features))
    assert "no covariance" in str(frechet_caveat(1, 9, 4))
    assert "4 pictures have no full covariance of 4 features" in str(frechet_caveat(4, 9, 4))
    assert frechet_caveat(5, 9, 4) is None
    # Where the covariance is not full, the distance is still finite and symmetric.
    few = frechet_distance(features[:3], features)
    assert few == pytest.approx(frechet_distance(features, features[:3]))
