from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dehaze.inversion import CRITERIA, SOLVERS, Solver
from dehaze.inversion.criteria import (
    Criterion,
    Evaluation,
    banach_bound,
    measure,
    root_mean_square,
)
from dehaze.inversion.relaxation import Lengthening
from dehaze.inversion.solvers import ImplicitStep, Solution

SHAPE = (1, 3, 4)


def solve(
    name: str,
    f: Callable[[Tensor, Tensor], Tensor],
    starts: Tensor,
    criterion: Criterion,
    *,
    tolerance: float,
    max_iterations: int,
) -> Solution:
    solver = SOLVERS.get(name)
    assert isinstance(solver, Solver)
    return solver.solve(ImplicitStep(f, starts, criterion, tolerance, max_iterations))


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
    paths = CRITERIA.get(criterion).paths
    starts = torch.cat([fixed + noise(len(rates), path + 1) for path in range(paths)])
    return solve(
        name,
        linear_map(rates, fixed),
        starts,
        CRITERIA.get(criterion),
        tolerance=settings.get("tolerance", 1e-6),
        max_iterations=int(settings.get("max_iterations", 40)),
    )


@pytest.mark.parametrize("name", ["fixed-point", "damped", "averaged", "anderson"])
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


def test_the_bound_with_the_true_constant_is_picards_error() -> None:
    fixed = torch.full((1, *SHAPE), 1e6, dtype=torch.float64)
    solution = solve(
        "fixed-point",
        linear_map([0.7], fixed),
        fixed + 1.0,
        CRITERIA.get("certificate"),
        tolerance=1e-15,
        max_iterations=6,
    )
    # Far from 0, where being relative to f(z_k) or to z* makes no difference.
    exact = banach_bound(solution.residuals[-1], solution.contraction)
    assert float(exact) * 1e6 == pytest.approx(0.7**6, rel=1e-3)
    assert 1.0 < float(solution.bounds[-1] / exact) < 4.0


@pytest.mark.parametrize("criterion", CRITERIA.names())
def test_a_map_that_does_not_contract_is_reported(criterion: str) -> None:
    solution = solved("fixed-point", [1.5, 0.5], criterion, max_iterations=30)
    assert solution.stopped.tolist() == [False, True]
    assert solution.contraction[0] >= 1.0
    evaluated = int(solution.iterations[0])
    assert evaluated == (2 if CRITERIA.get(criterion).retreats else 30)
    assert torch.isinf(solution.bounds[1:evaluated, 0]).all()
    assert torch.isfinite(solution.bounds[1, 1])


def test_certificate_needs_two_evaluations_of_one_path() -> None:
    solution = solved("fixed-point", [0.5], "certificate", tolerance=1e9, max_iterations=1)
    assert not solution.stopped.any()
    assert solution.contraction.isnan().all()
    assert torch.isinf(solution.bounds).all()


def test_two_paths_estimate_the_contraction_at_once() -> None:
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

    solution = solve(
        "fixed-point",
        counted,
        torch.cat([fixed + noise(3, 1), fixed + noise(3, 2)]),
        CRITERIA.get("inter-path"),
        tolerance=1e-3,
        max_iterations=20,
    )
    assert len(calls) == int(solution.iterations.max())
    assert calls[0] == 6
    assert calls[-1] == 2
    assert solution.z.shape == (3, *SHAPE)


def test_paths_that_settle_apart_are_not_called_converged() -> None:
    """Two fixed points, at -1 and 1: each path comes to rest, and only the second path tells."""

    def f(z: Tensor, index: Tensor) -> Tensor:
        return torch.sign(z) + 0.1 * (z - torch.sign(z))

    start = torch.full((1, *SHAPE), 0.5, dtype=torch.float64)
    settings: Any = {"tolerance": 1e-6, "max_iterations": 30}
    alone = solve("fixed-point", f, start, CRITERIA.get("intra-path"), **settings)
    paired = solve(
        "fixed-point", f, torch.cat([start, -start]), CRITERIA.get("inter-path"), **settings
    )
    assert alone.stopped.all()
    assert not paired.stopped.any()
    assert float(paired.residuals[-1, 0]) < 1e-6
    assert float(paired.inter[-1, 0]) == pytest.approx(2.0)


def test_the_bound_needs_a_constant_below_one() -> None:
    change = torch.ones(4)
    bounds = banach_bound(change, torch.tensor([0.0, 0.5, 1.0, torch.nan]))
    assert bounds.tolist() == [0.0, 1.0, torch.inf, torch.inf]


def test_an_unknown_criterion_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"luck.*certificate"):
        CRITERIA.get("luck")


def test_the_expected_error_is_the_doubt_of_the_slope() -> None:
    """f has the slope q, but is taken to have q': the update is off by w^2 (q' - q), nearly."""
    fixed, start = noise(2, 0), noise(2, 1)
    f = linear_map([0.4, 0.4], fixed)
    for supposed in (0.41, 0.38):
        factor = 1.0 / (1.0 - supposed)
        lengthening = Lengthening(factor, doubt=factor**2 * abs(supposed - 0.4))
        now = Evaluation(start, f(start, torch.arange(2)))
        following = lengthening(now.latent, now.mapped)
        measured = measure(now, None, following, CRITERIA.get("expected-error"), lengthening.doubt)
        error = root_mean_square(following - fixed) / root_mean_square(now.mapped)
        torch.testing.assert_close(measured.expected, error, rtol=0.05, atol=0.0)


def test_without_a_slope_the_whole_change_may_be_an_error() -> None:
    fixed, start = noise(2, 0), noise(2, 1)
    now = Evaluation(start, linear_map([0.4, 0.9], fixed)(start, torch.arange(2)))
    measured = measure(now, None, now.mapped, CRITERIA.get("expected-error"), Lengthening().doubt)
    torch.testing.assert_close(measured.expected, measured.intra)


def test_only_the_residual_returns_an_evaluated_iterate() -> None:
    assert [name for name in CRITERIA.names() if CRITERIA.get(name).evaluated] == ["residual"]
