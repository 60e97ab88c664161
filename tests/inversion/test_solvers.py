from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dehaze.inversion import CRITERIA, SOLVERS, Solver
from dehaze.inversion.criteria import Criterion, Evaluation
from dehaze.inversion.relaxation import Lengthening
from dehaze.inversion.solvers import ImplicitStep, Solution, anderson, idle_settings

INTRA = CRITERIA.get("intra-path")
IMPLICIT = [name for name in SOLVERS.names() if isinstance(SOLVERS.get(name), Solver)]
START = torch.zeros(3, 1, 2, 2, dtype=torch.float64)


def solve(
    name: str,
    f: Any,
    starts: Tensor,
    *,
    tolerance: float,
    max_iterations: int,
    criterion: Criterion = INTRA,
    lengthening: Lengthening | None = None,
) -> Solution:
    """What a solver finds."""
    solver = SOLVERS.get(name)
    assert isinstance(solver, Solver)
    return solver.solve(
        ImplicitStep(f, starts, criterion, tolerance, max_iterations, lengthening or Lengthening())
    )


def linear_map(rates: list[float], fixed: float = 1.0) -> tuple[list[Tensor], object]:
    """f(z) = fixed + rate (z - fixed), a rate per sample; also the samples of each call."""
    calls: list[Tensor] = []
    rate = torch.tensor(rates, dtype=torch.float64)[:, None, None, None]

    def f(z: Tensor, index: Tensor) -> Tensor:
        calls.append(index.clone())
        return fixed + rate[index] * (z - fixed)

    return calls, f


@pytest.mark.parametrize("name", IMPLICIT)
def test_every_solver_reports_each_sample(name: str) -> None:
    calls, f = linear_map([0.1, 0.5, 0.9])
    solution = solve(name, f, START, tolerance=1e-6, max_iterations=10, criterion=INTRA)
    assert solution.z.shape == START.shape
    for field in (solution.iterations, solution.contraction, solution.stopped, solution.remaining):
        assert field.shape == (3,)
    assert solution.residuals.shape[1] == 3
    counted = torch.bincount(torch.cat(calls), minlength=3)
    assert torch.equal(solution.iterations, counted)


def test_picard_converges_at_the_rate_of_the_map() -> None:
    _, f = linear_map([0.1, 0.5, 0.9])
    solution = solve("fixed-point", f, START, tolerance=1e-12, max_iterations=8, criterion=INTRA)
    # From 0 to the fixed point 1 the error after k iterations is rate^k, exactly.
    error = (1.0 - solution.z).flatten(1).amax(1)
    expected = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64) ** 8
    torch.testing.assert_close(error, expected, rtol=1e-6, atol=1e-15)


def test_picard_estimates_the_contraction_of_each_sample() -> None:
    _, f = linear_map([0.1, 0.5, 0.9], fixed=100.0)
    start = torch.full_like(START, 99.0)
    solution = solve("fixed-point", f, start, tolerance=1e-15, max_iterations=6, criterion=INTRA)
    expected = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    torch.testing.assert_close(solution.contraction, expected, rtol=0.02, atol=0)


def test_converged_samples_leave_the_batch() -> None:
    calls, f = linear_map([0.01, 0.5, 0.99])
    solution = solve("fixed-point", f, START, tolerance=1e-3, max_iterations=12, criterion=INTRA)
    assert solution.stopped.tolist() == [True, True, False]
    assert solution.iterations[0] < solution.iterations[1] < solution.iterations[2] == 12
    assert solution.iterations.tolist() == torch.bincount(torch.cat(calls)).tolist()
    unmeasured = solution.residuals[:, 0].isnan()
    assert unmeasured.tolist() == [k >= int(solution.iterations[0]) for k in range(12)]


def test_a_sample_of_a_batch_is_solved_as_if_alone() -> None:
    _, together = linear_map([0.2, 0.7, 0.4])
    batched = solve(
        "fixed-point", together, START, tolerance=1e-5, max_iterations=30, criterion=INTRA
    )
    for position, rate in enumerate([0.2, 0.7, 0.4]):
        _, alone = linear_map([rate])
        single = solve(
            "fixed-point", alone, START[:1], tolerance=1e-5, max_iterations=30, criterion=INTRA
        )
        assert torch.equal(batched.z[position], single.z[0])
        assert batched.iterations[position] == single.iterations[0]


def test_a_map_that_does_not_contract_is_not_called_converged() -> None:
    _, f = linear_map([1.5, 1.5, 1.5])
    solution = solve("fixed-point", f, START, tolerance=1e-3, max_iterations=6, criterion=INTRA)
    assert not solution.stopped.any()


def test_ddim_applies_the_map_once_and_measures_nothing() -> None:
    _, f = linear_map([0.5, 0.5, 0.5])
    solution = solve("ddim", f, START, tolerance=1.0, max_iterations=9, criterion=INTRA)
    assert torch.equal(solution.z, torch.full_like(START, 0.5))
    assert solution.iterations.tolist() == [1, 1, 1]
    assert not solution.stopped.any()
    assert solution.residuals.isnan().all()
    assert solution.remaining.isnan().all()


def test_an_unknown_solver_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"newton.*fixed-point"):
        SOLVERS.get("newton")


def solve_linear(name: str, rates: list[float], iterations: int) -> Tensor:
    """(B,), the error after so many iterations on f(z) = 1 + q (z - 1) from 0."""
    _, f = linear_map(rates)
    solution = solve(
        name,
        f,
        torch.zeros(len(rates), 1, 2, 2, dtype=torch.float64),
        tolerance=1e-300,
        max_iterations=iterations,
        criterion=INTRA,
    )
    return (solution.z - 1.0).flatten(1).abs().amax(1)


def test_damping_converges_at_its_closed_form() -> None:
    rates = [0.1, 0.5, 0.9, -0.5, -1.5, -2.5]
    expected = torch.tensor([(1 - 0.5 + 0.5 * rate) for rate in rates], dtype=torch.float64)
    torch.testing.assert_close(
        solve_linear("damped", rates, 7), expected.abs() ** 7, rtol=1e-9, atol=1e-15
    )
    assert solve_linear("fixed-point", [-1.5], 7) > 10.0


@pytest.mark.parametrize("rate", [0.3, 0.5, 0.9])
def test_averaging_converges_at_the_root_of_its_polynomial(rate: float) -> None:
    expected = np.abs(np.roots([1.0, -rate / 2, -rate / 2])).max()
    # Two roots of like size beat against each other: the rate is that of many iterations.
    early, late = (float(solve_linear("averaged", [rate], count)) for count in (10, 22))
    assert (late / early) ** (1 / 12) == pytest.approx(expected, rel=0.02)
    assert expected > rate


@pytest.mark.parametrize(("name", "averaged"), [("renoise", 2), ("renoise-3", 3)])
@pytest.mark.parametrize("iterations", [1, 2, 3, 5])
def test_renoise_averages_once_after_picard(name: str, averaged: int, iterations: int) -> None:
    """Against ReNoise, arXiv 2403.14602, written down for f(z) = A z_prev + B eps(z)."""
    A, B, previous = 0.9, 0.4, START + torch.linspace(-1, 1, 12, dtype=torch.float64).view_as(START)

    def noise(z: Tensor) -> Tensor:
        return torch.tanh(1.3 * z + 0.2)

    predictions: list[Tensor] = []
    z = previous
    for _ in range(iterations):
        predictions.append(noise(z))
        z = A * previous + B * predictions[-1]
    mean = sum(predictions[-averaged:]) / len(predictions[-averaged:])
    solution = solve(
        name,
        lambda z, index: A * previous[index] + B * noise(z),
        previous,
        tolerance=1e-300,
        max_iterations=iterations,
    )
    torch.testing.assert_close(solution.z, A * previous + B * mean, rtol=1e-12, atol=1e-12)
    assert solution.iterations.tolist() == [iterations] * 3


def test_renoise_averages_where_a_sample_stops_early() -> None:
    _, f = linear_map([0.1, 0.5, 0.99])
    solution = solve("renoise", f, START, tolerance=5e-2, max_iterations=6)
    assert solution.stopped.tolist() == [True, True, False]
    for sample, rate in enumerate([0.1, 0.5, 0.99]):
        last = int(solution.iterations[sample])
        # z_k = 1 - q^k; the mean of f at the last two iterates.
        expected = 1.0 - (rate ** (last - 1) + rate**last) / 2
        assert float(solution.z[sample].mean()) == pytest.approx(expected)


@pytest.mark.parametrize("rate", [0.3, 0.7, 0.95, 0.98, -0.4])
def test_momentum_converges_at_the_root_of_its_polynomial(rate: float) -> None:
    t = 0.6
    roots = np.roots([1.0, -(1.0 + t) * rate, t * rate]).astype(complex)
    # e_0 = 1 and e_1 = q settle the share of each root in e_k = c_1 x_1^k + c_2 x_2^k.
    shares = np.linalg.solve(np.stack([roots**0, roots]), np.array([1.0, rate], dtype=complex))
    for count in (1, 2, 5, 12):
        expected = abs((shares * roots**count).sum())
        assert float(solve_linear("nesterov", [rate], count)) == pytest.approx(expected, rel=1e-6)
    assert (np.abs(roots).max() < rate) == (rate > t)


def test_anderson_solves_a_linear_map_in_a_step_a_factor() -> None:
    rates = torch.tensor([0.2, 0.5, -0.4], dtype=torch.float64)

    def f(z: Tensor, index: Tensor) -> Tensor:
        return 1.0 + rates[:, None] * (z - 1.0)

    settings = {"tolerance": 1e-300}
    start = torch.zeros(2, 1, 3, 2, dtype=torch.float64)
    solution = solve("anderson", f, start, max_iterations=4, **settings)
    assert (solution.z - 1.0).abs().max() < 1e-6
    early = solve("anderson", f, start, max_iterations=2, **settings)
    assert (early.z - 1.0).abs().max() > 1e-3


def curved_map(A: Tensor, b: Tensor, curve: Any, z: Tensor, index: Tensor) -> Tensor:
    return (curve(z.flatten(1)) @ A.T + b).view_as(z)


def toy_maps() -> list[Any]:
    """Linear and curved maps of many directions, of constants from 0.1 to 0.95."""
    maps: list[Any] = []
    for seed, constant in enumerate([0.1, 0.3, 0.5, 0.7, 0.85, 0.95] * 2):
        generator = torch.Generator().manual_seed(seed)
        matrix = torch.randn(24, 24, generator=generator, dtype=torch.float64)
        if seed >= 6:
            matrix = matrix + matrix.T
        matrix = constant * matrix / torch.linalg.matrix_norm(matrix, 2)
        offset = torch.randn(24, generator=generator, dtype=torch.float64)
        for curve in (lambda x: x, torch.tanh, torch.sin):

            def f(
                z: Tensor, index: Tensor, A: Any = matrix, b: Any = offset, g: Any = curve
            ) -> Any:
                return (g(z.flatten(1)) @ A.T + b).view_as(z)

            maps.append(f)
    return maps


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
def test_anderson_never_costs_a_tenth_more_than_picard(tolerance: float) -> None:
    start = torch.zeros(1, 1, 4, 6, dtype=torch.float64)
    total = {"fixed-point": 0, "anderson": 0}
    for f in toy_maps():
        nfe = {}
        for name in total:
            solution = solve(
                name, f, start, tolerance=tolerance, max_iterations=500, criterion=INTRA
            )
            assert solution.stopped.all()
            nfe[name] = int(solution.iterations[0])
            total[name] += nfe[name]
        assert nfe["anderson"] <= 1.1 * nfe["fixed-point"]
    assert total["anderson"] < 0.75 * total["fixed-point"]


@pytest.mark.parametrize("name", ["fixed-point", "anderson", "ddim"])
def test_a_relaxed_update_solves_a_linear_map_at_once(name: str) -> None:
    """w = 1 / (1 - q) is Newton's step: a map of one factor is solved by one evaluation."""
    for rate in (0.1, 0.5, 0.9):
        _, f = linear_map([rate] * 3)
        solution = solve(
            name,
            f,
            START,
            tolerance=1e-300,
            max_iterations=1,
            criterion=INTRA,
            lengthening=Lengthening(1.0 / (1.0 - rate)),
        )
        torch.testing.assert_close(solution.z, torch.ones_like(START))


@pytest.mark.parametrize("factor", [1.0, 1.5, 2.0])
def test_every_update_is_relaxed(factor: float) -> None:
    _, f = linear_map([0.5] * 3)
    solution = solve(
        "fixed-point",
        f,
        START,
        tolerance=1e-300,
        max_iterations=3,
        criterion=INTRA,
        lengthening=Lengthening(factor),
    )
    # An update leaves 1 - w / 2 of the error.
    left = (1.0 - factor / 2.0) ** 3
    torch.testing.assert_close(1.0 - solution.z, torch.full_like(START, left))
    # What is measured is f, whatever the relaxation.
    assert float(solution.residuals[0, 0]) == 1.0
    if left > 0.0:
        assert float(solution.contraction[0]) == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["fixed-point", "anderson"])
def test_a_growing_residual_returns_the_iterate_before(name: str) -> None:
    """The second sample is driven away from its third iterate on, the third from the start."""
    calls: list[Tensor] = []

    def f(z: Tensor, index: Tensor) -> Tensor:
        turned = [0.5, 0.5 if len(calls) < 2 else -3.0, 1.5]
        calls.append(index.clone())
        rate = torch.tensor(turned, dtype=torch.float64)[index][:, None, None, None]
        # Two directions, so that Anderson does not solve it at once.
        slower = torch.tensor([1.0, 0.7], dtype=torch.float64)
        return 100.0 + rate * slower * (z - 100.0)

    start = torch.full_like(START, 99.0)
    solution = solve(
        name,
        f,
        start,
        tolerance=1e-9,
        max_iterations=60,
        criterion=replace(INTRA, retreats=True),
    )
    assert solution.stopped.tolist() == [True, False, False]
    torch.testing.assert_close(solution.z[0], torch.full_like(START[0], 100.0), rtol=1e-8, atol=0.0)
    assert torch.equal(solution.z[2], start[2])
    assert solution.iterations[1:].tolist() == [3, 2]
    assert torch.isinf(solution.bounds[[2, 1], [1, 2]]).all()
    # The second iterate, which is Picard's.
    expected = 100.0 + torch.tensor([-0.5, -0.35], dtype=torch.float64).expand(1, 2, 2)
    torch.testing.assert_close(solution.z[1], expected)
    assert torch.isnan(solution.remaining[0])
    assert (solution.remaining[1:] > 1e-3).all()
    # Who is left costs nothing more.
    assert torch.equal(solution.iterations, torch.bincount(torch.cat(calls), minlength=3))


def test_anderson_falls_back_where_the_residual_grew() -> None:
    before = Evaluation(torch.zeros(2, 1, 1, 2), torch.ones(2, 1, 1, 2))
    latent = torch.ones(2, 1, 1, 2)
    grown = torch.stack([torch.full((1, 1, 2), 3.0), torch.full((1, 1, 2), 1.5)])
    following = anderson([before, Evaluation(latent, grown)])
    # The first sample's residual grew from 1 to 2; the second's shrank to 0.5, secant: z* = 2.
    assert torch.equal(following[0], grown[0])
    torch.testing.assert_close(following[1], torch.full((1, 1, 2), 2.0))


def test_the_residual_criterion_returns_an_evaluated_iterate() -> None:
    calls, f = linear_map([0.1, 0.5, 0.99])
    start = torch.full_like(START, 0.5)
    solution = solve(
        "fixed-point",
        f,
        start,
        tolerance=1e-3,
        max_iterations=12,
        criterion=CRITERIA.get("residual"),
    )
    assert solution.stopped.tolist() == [True, True, False]
    assert solution.iterations.tolist() == torch.bincount(torch.cat(calls)).tolist()
    everyone = torch.arange(3)
    difference = (f(solution.z, everyone) - solution.z).flatten(1).norm(dim=1)  # type: ignore[operator]
    expected = difference / solution.z.flatten(1).norm(dim=1)
    torch.testing.assert_close(solution.remaining, expected)
    assert ((solution.remaining < 1e-3) == solution.stopped).all()


def test_residual_returns_the_best_of_a_diverging_map() -> None:
    _, f = linear_map([-1.5, -1.5, 0.5], fixed=1.0)
    solution = solve(
        "fixed-point",
        f,
        torch.full_like(START, 0.9),
        tolerance=1e-9,
        max_iterations=5,
        criterion=CRITERIA.get("residual"),
    )
    assert not solution.stopped.any()
    torch.testing.assert_close(solution.z[0], torch.full_like(START[0], 0.9))
    assert float(solution.remaining[0]) == pytest.approx(0.25 / 0.9)
    assert float(solution.remaining[2]) < 0.01


def test_settings_without_effect_are_known() -> None:
    assert "tolerance" in idle_settings("edict")
    assert idle_settings("ddim") == ("criterion", "max_iterations", "tolerance")
    assert idle_settings("ddim", checked=True) == ("criterion", "max_iterations")
    assert idle_settings("anderson") == ()
