from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from schedules import table_of
from torch import Tensor

from dehaze.inversion import CRITERIA, SOLVERS, DDIMTable, Solver
from dehaze.inversion.criteria import (
    Criterion,
    Measurement,
    banach_bound,
    gain_to_picture,
    power,
    root_mean_square,
)
from dehaze.inversion.relaxation import cosines
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


@pytest.mark.parametrize("name", CRITERIA.names())
def test_only_reconstruction_depends_on_the_step(name: str) -> None:
    table = DDIMTable((1, 200, 900), (1.0, 0.99, 0.6, 1e-3), "epsilon")
    criterion, clean = CRITERIA.get(name), noise(2, 0)
    error = noise(2, 1)
    everyone = torch.arange(2)
    steps = [criterion.of_step(table, i, clean) for i in (1, 2, 3)]
    seen = [float(step.weighted(error, everyone).norm()) for step in steps]
    measured = Measurement(*(torch.tensor([value]) for value in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)))
    watched = [step.watched(measured).item() for step in steps]
    if name == "reconstruction":
        assert seen[0] == float(error.norm())
        assert watched == [2.0, 6.0, 6.0]
        one = steps[2].weighted(error[1:], torch.tensor([1]))
        torch.testing.assert_close(one, steps[2].weighted(error, everyone)[1:])
        assert seen[1] != pytest.approx(seen[2])
    else:
        assert seen == [float(error.norm())] * 3
        assert len(set(watched)) == 1


def test_only_the_residual_returns_an_evaluated_iterate() -> None:
    assert [name for name in CRITERIA.names() if CRITERIA.get(name).evaluated] == ["residual"]


def latents(batch: int = 2, height: int = 6, width: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, height, width, generator=generator, dtype=torch.float64)


def wave(row: int, column: int) -> Tensor:
    """Of the transform, of mean square 1 / (H W), in each of 3 channels."""
    return torch.outer(cosines(6)[row], cosines(8)[column]).expand(1, 3, -1, -1).contiguous()


def test_the_power_of_all_waves_is_that_of_the_latents() -> None:
    torch.testing.assert_close(power(latents()).mean((1, 2, 3)), latents().square().mean((1, 2, 3)))


def test_the_power_is_that_of_the_waves_of_one_length() -> None:
    found = power(wave(0, 4))[0, 0]
    # (3, 0) and (2, 3) are 4 and 4.01 cycles of the longer side long, as (0, 4) is.
    same = found > 1e-9
    assert torch.stack([same[0, 4], same[3, 0], same[2, 3]]).all()
    assert not torch.stack([same[0, 3], same[0, 5], same[2, 2]]).any()
    torch.testing.assert_close(found[same], found[0, 4].expand(int(same.sum())))


def test_a_picture_without_a_mean_is_still_expected_to_have_one() -> None:
    found = power(wave(0, 1))[0, 0]
    assert found[0, 0] == found[0, 1] > 0.0


def test_the_gain_is_that_of_a_wiener_filters_way_back() -> None:
    """A direction of Gaussian pictures keeps its quantile, in the limit of many steps."""
    table = table_of(500)
    clean = 20.0 * wave(0, 1) + 5.0 * wave(2, 2) + latents(1)
    variance = power(clean)
    for start in (50, 250, 450):
        gain = gain_to_picture(table, start, clean)
        error = torch.ones(1, 1, 6, 8, dtype=torch.float64)
        for i in range(start, 0, -1):
            alpha, sigma = table.alphas[i], table.sigma(i)
            kept = math.sqrt(alpha) * variance / (alpha * variance + sigma**2)
            noise = (error - math.sqrt(alpha) * kept * error) / sigma
            error = table.denoise_step(error, noise, i)
        torch.testing.assert_close(error, gain, rtol=0.05, atol=0.0)
