from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dehaze.inversion.criteria import (
    CRITERIA,
    Measurement,
    banach_bound,
    get_criterion,
    root_mean_square,
)
from dehaze.inversion.schedule import DDIMTable
from dehaze.inversion.solvers import Solution, get_solver

SHAPE = (1, 3, 4)


def linear_map(rates: list[float], fixed: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """f(z) = z* + q (z - z*), a factor q per sample; second paths use their sample's."""
    rate = torch.tensor(rates, dtype=torch.float64)[:, None, None, None]

    def f(z: Tensor, index: Tensor) -> Tensor:
        sample = index % len(rates)
        return fixed[sample] + rate[sample] * (z - fixed[sample])

    return f


def noise(batch: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *SHAPE, generator=generator, dtype=torch.float64)


def solved(name: str, rates: list[float], criterion: str, **settings: float) -> Solution:
    fixed = noise(len(rates), 0)
    paths = get_criterion(criterion).paths
    starts = torch.cat([fixed + noise(len(rates), path + 1) for path in range(paths)])
    return get_solver(name).solve(
        linear_map(rates, fixed),
        starts,
        tolerance=settings.get("tolerance", 1e-6),
        max_iterations=int(settings.get("max_iterations", 40)),
        criterion=get_criterion(criterion),
    )


@pytest.mark.parametrize("name", ["fixed-point", "damped", "averaged", "renoise", "anderson"])
@pytest.mark.parametrize("iterations", [2, 3, 5, 8])
def test_the_certificate_is_never_below_the_true_error(name: str, iterations: int) -> None:
    rates = [0.9, 0.5, 0.1, -0.4, -0.8]
    solution = solved(name, rates, "certificate", tolerance=1e-14, max_iterations=iterations)
    fixed = noise(len(rates), 0)
    error = root_mean_square(solution.z - fixed)
    for sample, rate in enumerate(rates):
        k = int(solution.iterations[sample]) - 1
        # q is that of f on the line through two iterates, |q| here, whatever the solver does.
        bound = solution.bounds[k, sample]
        if error[sample] < 1e-13:
            continue
        assert solution.contraction[sample] == pytest.approx(abs(rate), rel=1e-6)
        # Residuals are relative to f(z_k), whose size is not known here but is near z*'s.
        scale = root_mean_square(fixed[sample][None])[0]
        assert bound * scale * (1.0 + 3.0 * bound) >= error[sample] * (1.0 - 1e-9)
        assert math.isfinite(bound)


def test_with_the_true_constant_the_bound_is_picards_error_itself() -> None:
    fixed = torch.full((1, *SHAPE), 1e6, dtype=torch.float64)
    solution = get_solver("fixed-point").solve(
        linear_map([0.7], fixed),
        fixed + 1.0,
        tolerance=1e-15,
        max_iterations=6,
        criterion=get_criterion("certificate"),
    )
    # Far from 0, where being relative to f(z_k) or to z* makes no difference.
    exact = banach_bound(solution.residuals[-1], solution.contraction)
    assert float(exact) * 1e6 == pytest.approx(0.7**6, rel=1e-3)
    assert 1.0 < float(solution.bounds[-1] / exact) < 4.0


@pytest.mark.parametrize("criterion", list(CRITERIA))
def test_a_map_that_does_not_contract_is_said_to_be_so(criterion: str) -> None:
    solution = solved("fixed-point", [1.5, 0.5], criterion, max_iterations=30)
    assert solution.converged.tolist() == [False, True]
    assert solution.contraction[0] >= 1.0
    evaluated = int(solution.iterations[0])
    assert evaluated == (2 if get_criterion(criterion).retreats else 30)
    assert torch.isinf(solution.bounds[1:evaluated, 0]).all()
    assert torch.isfinite(solution.bounds[1, 1])


def test_one_evaluation_of_one_path_certifies_nothing() -> None:
    solution = solved("fixed-point", [0.5], "certificate", tolerance=1e9, max_iterations=1)
    assert not solution.converged.any()
    assert solution.contraction.isnan().all()
    assert torch.isinf(solution.bounds).all()


def test_two_paths_estimate_the_contraction_from_their_first_evaluation() -> None:
    solution = solved("fixed-point", [0.5], "inter-path", tolerance=1e9, max_iterations=1)
    assert float(solution.contraction[0]) == pytest.approx(0.5)


def test_two_paths_are_one_call_and_count_twice() -> None:
    calls: list[int] = []
    fixed = noise(3, 0)
    f = linear_map([0.1, 0.5, 0.9], fixed)

    def counted(z: Tensor, index: Tensor) -> Tensor:
        calls.append(len(index))
        assert torch.equal(index[: len(index) // 2] + 3, index[len(index) // 2 :])
        return f(z, index)

    solution = get_solver("fixed-point").solve(
        counted,
        torch.cat([fixed + noise(3, 1), fixed + noise(3, 2)]),
        tolerance=1e-3,
        max_iterations=20,
        criterion=get_criterion("inter-path"),
    )
    assert len(calls) == int(solution.iterations.max())
    assert calls[0] == 6
    assert calls[-1] == 2
    assert torch.equal(solution.nfe, 2 * solution.iterations)
    assert solution.z.shape == (3, *SHAPE)


def test_paths_that_settle_apart_are_not_called_converged() -> None:
    """Two fixed points, at -1 and 1: each path comes to rest, and only the second path tells."""

    def f(z: Tensor, index: Tensor) -> Tensor:
        return torch.sign(z) + 0.1 * (z - torch.sign(z))

    start = torch.full((1, *SHAPE), 0.5, dtype=torch.float64)
    settings = {"tolerance": 1e-6, "max_iterations": 30}
    alone = get_solver("fixed-point").solve(
        f, start, criterion=get_criterion("intra-path"), **settings
    )
    paired = get_solver("fixed-point").solve(
        f, torch.cat([start, -start]), criterion=get_criterion("inter-path"), **settings
    )
    assert alone.converged.all()
    assert not paired.converged.any()
    assert float(paired.residuals[-1, 0]) < 1e-6
    assert float(paired.inter[-1, 0]) == pytest.approx(2.0)


def test_the_bound_needs_a_constant_below_one() -> None:
    change = torch.ones(4)
    bounds = banach_bound(change, torch.tensor([0.0, 0.5, 1.0, torch.nan]))
    assert bounds.tolist() == [0.0, 1.0, torch.inf, torch.inf]


def test_an_unknown_criterion_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"luck.*certificate"):
        get_criterion("luck")


@pytest.mark.parametrize("name", list(CRITERIA))
def test_only_what_is_seen_in_the_picture_depends_on_the_step(name: str) -> None:
    table = DDIMTable((1, 200, 900), (1.0, 0.99, 0.6, 1e-3), "epsilon")
    criterion, clean = get_criterion(name), noise(2, 0)
    error = noise(2, 1)
    seen = [
        criterion.of_step(table, i, clean).seen(error, torch.arange(2)).norm() for i in (1, 2, 3)
    ]
    measured = Measurement(*(torch.tensor([value]) for value in (1.0, 2.0, 3.0, 4.0, 5.0)))
    watched = [criterion.of_step(table, i, clean).residual(measured).item() for i in (1, 2, 3)]
    if name == "reconstruction":
        assert float(seen[0]) == float(error.norm())
        assert watched == [1.0, 5.0, 5.0]
        one = criterion.of_step(table, 3, clean).seen(error[1:], torch.tensor([1]))
        both = criterion.of_step(table, 3, clean).seen(error, torch.arange(2))
        torch.testing.assert_close(one, both[1:])
        assert not torch.allclose(seen[1], seen[2])
    else:
        assert all(float(value) == float(error.norm()) for value in seen)
        assert len(set(watched)) == 1
