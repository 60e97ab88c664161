from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import check_grad
from scipy.stats import chi
from torch import Tensor

from dehaze.inversion import interpolation, likely_paths
from dehaze.inversion.interpolation import (
    PATHS,
    centroid,
    norm_guided_path,
    path_log_density,
    points_between,
    slerp,
    slerp_path,
)
from dehaze.inversion.likely_paths import chi_log_density


def normal(dimension: int, seed: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(1, dimension, generator=generator, dtype=torch.float64)


@given(dimension=st.integers(1, 60_000), relative=st.floats(0.01, 3.0))
def test_the_density_of_norms_is_scipys(dimension: int, relative: float) -> None:
    norm = np.array([relative * math.sqrt(dimension)])
    expected = chi.logpdf(norm, dimension)
    np.testing.assert_allclose(chi_log_density(norm, dimension), expected, rtol=1e-9, atol=1e-6)


def test_the_likeliest_norm_is_near_the_root_of_the_dimension() -> None:
    norms = np.linspace(50.0, 60.0, 10_001)
    best = norms[chi_log_density(norms, 3072).argmax()]
    assert best == pytest.approx(math.sqrt(3071), abs=1e-3)


@given(share=st.floats(0.0, 1.0), seed=st.integers(0, 50))
@settings(max_examples=30)
def test_slerp_turns_and_stretches_evenly(share: float, seed: int) -> None:
    a, b = normal(40, seed), normal(40, seed + 100, 2.0)
    point = slerp(a, b, share)

    def angle(u: Tensor, v: Tensor) -> float:
        cosine = (u * v).sum() / u.norm() / v.norm()
        return float(torch.arccos(cosine.clamp(-1.0, 1.0)))

    assert float(point.norm()) == pytest.approx(
        (1 - share) * float(a.norm()) + share * float(b.norm())
    )
    assert angle(a, point) == pytest.approx(share * angle(a, b), abs=1e-6)
    # The textbook formula on directions.
    w = angle(a, b)
    u = math.sin((1 - share) * w) / math.sin(w) * a / a.norm()
    v = math.sin(share * w) / math.sin(w) * b / b.norm()
    torch.testing.assert_close(point / point.norm(), u + v)


@pytest.mark.parametrize(("first", "last"), [(1.0, 1.0), (0.7, 1.2), (0.9, 0.95)])
@pytest.mark.parametrize("dimension", [100, 3072])
def test_guided_path_is_likelier_with_equal_steps(
    dimension: int, first: float, last: float
) -> None:
    a, b = normal(dimension, 1, first), normal(dimension, 2, last)
    path = norm_guided_path(a, b, 8)
    assert torch.equal(path[0], a)
    assert torch.equal(path[-1], b)
    steps = [float((after - before).norm()) for before, after in pairwise(path)]
    assert max(steps) == pytest.approx(min(steps), rel=1e-4)
    straight = [a + (b - a) * share for share in np.linspace(0, 1, 8)]
    assert (
        path_log_density(path)
        > path_log_density(slerp_path(a, b, 8))
        > (path_log_density(straight))
    )
    # Between its ends the path keeps to the norm that normal vectors have.
    inner = [float(point.norm()) / math.sqrt(dimension) for point in path[2:-2]]
    assert max(abs(norm - 1.0) for norm in inner) < 0.03


@pytest.mark.parametrize(("first", "last"), [(1.0, 1.0), (0.9, 1.2)])
def test_a_path_of_two_steps_is_the_best_there_is(first: float, last: float) -> None:
    """Its one corner has one freedom, along the bisector of the ends: all of it is looked at."""
    a, b = normal(300, 3, first), normal(300, 4, last)
    middle, across = (a + b) / 2.0, b - a
    up = middle - (middle * across).sum() / across.square().sum() * across
    up = up / up.norm()
    searched = max(
        path_log_density([a, middle + height * up, b]) for height in np.linspace(-20, 40, 1201)
    )
    found = path_log_density(norm_guided_path(a, b, 3))
    assert found == pytest.approx(searched, rel=2e-3)


def test_the_objective_is_its_definition_by_hand() -> None:
    path = [torch.tensor([3.0, 0.0]), torch.tensor([3.0, 8.0])]
    expected = sum(
        1.0 * chi.logpdf(math.hypot(3.0, y), 2) for y in (0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5)
    )
    assert path_log_density(path) == pytest.approx(expected)


class Caught(Exception):  # noqa: N818 (it ends the call, and is no error)
    """A minimiser was called: its objective and where it begins."""

    def __init__(self, loss: Callable[[np.ndarray], Any], beginning: np.ndarray) -> None:
        super().__init__()
        self.loss, self.beginning = loss, beginning


def catch(loss: Callable[[np.ndarray], Any], beginning: np.ndarray, **unused: object) -> None:
    raise Caught(loss, beginning)


@pytest.mark.parametrize(
    ("module", "call"),
    [
        (likely_paths, lambda: norm_guided_path(normal(50, 5), normal(50, 6, 1.3), 6)),
        (interpolation, lambda: centroid([normal(50, seed, 0.9) for seed in range(4)])),
    ],
    ids=["path", "centroid"],
)
def test_the_gradient_of_each_objective_is_right(
    module: Any, call: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "minimiser", lambda: catch)
    with pytest.raises(Caught) as caught:
        call()
    # A centroid looks for paths itself.
    monkeypatch.undo()
    loss, beginning = caught.value.loss, 1.05 * caught.value.beginning
    slope = loss(beginning)[1]
    error = check_grad(lambda x: loss(x)[0], lambda x: loss(x)[1], beginning, epsilon=1e-5)
    assert error < 1e-3 * np.linalg.norm(slope)


def test_the_centroid_lies_between_and_is_likely() -> None:
    points = [normal(500, seed) for seed in (1, 2, 3)]
    points = [point / point.norm() * math.sqrt(500) for point in points]
    middle = centroid(points, segments=4)
    assert middle.shape == points[0].shape
    assert float(middle.norm()) / math.sqrt(500) == pytest.approx(1.0, abs=0.03)
    cosines = [float(torch.cosine_similarity(middle, point)) for point in points]
    assert min(cosines) > 0.4

    def value(candidate: Tensor) -> float:
        paths = [norm_guided_path(candidate, point, 5) for point in points]
        own = float(chi_log_density(np.array(float(candidate.norm())), 500))
        return own + sum(path_log_density(path) for path in paths)

    # No likelier one is near.
    for seed in range(20):
        assert value(middle) > value(middle + 0.02 * normal(500, seed)) - 1e-3
    mean = sum(points[1:], start=points[0])
    for other in (points[0], mean / 3.0, 1.05 * mean / mean.norm() * math.sqrt(500)):
        assert value(middle) > value(other)


@pytest.mark.parametrize("path", PATHS.names())
def test_ends_in_one_direction_are_a_straight_path(path: str) -> None:
    a = normal(30, 1)
    points = PATHS.get(path)(a, 2.0 * a, 5)
    for point in points:
        assert float(torch.cosine_similarity(point, a)) == pytest.approx(1.0)
    assert len(PATHS.get(path)(a, 2.0 * a, 2)) == 2


@pytest.mark.parametrize("path", PATHS.names())
def test_latents_without_a_path_are_refused(path: str) -> None:
    a = normal(30, 1)
    with pytest.raises(ValueError, match="opposite directions"):
        PATHS.get(path)(a, -a, 4)
    with pytest.raises(ValueError, match="shapes differ"):
        PATHS.get(path)(a, a[:, :20], 4)
    with pytest.raises(ValueError, match="zeros"):
        PATHS.get(path)(a, 0.0 * a, 4)
    with pytest.raises(ValueError, match="two points or more"):
        PATHS.get(path)(a, 2.0 * a, 1)
    with pytest.raises(ValueError, match="two points or more"):
        centroid([a])
    with pytest.raises(ValueError, match="cancel"):
        centroid([a, -a])


def test_points_are_spread_over_the_paths_without_their_ends() -> None:
    ends = [(normal(20, seed), normal(20, seed + 9)) for seed in range(3)]
    points = points_between(ends, 5, slerp_path)
    expected = [slerp(*ends[0], 1 / 3), slerp(*ends[0], 2 / 3), slerp(*ends[1], 1 / 3),
                slerp(*ends[1], 2 / 3), slerp(*ends[2], 1 / 2)]  # fmt: skip
    torch.testing.assert_close(torch.stack(points), torch.stack(expected))
    assert len(points_between(ends, 2)) == 2
    assert points_between(ends, 0) == []
