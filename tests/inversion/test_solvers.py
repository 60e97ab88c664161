from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dehaze.inversion.criteria import intra_path
from dehaze.inversion.solvers import get_solver, list_solvers, register_solver

START = torch.zeros(3, 1, 2, 2, dtype=torch.float64)


def linear_map(rates: list[float], fixed: float = 1.0) -> tuple[list[Tensor], object]:
    """f(z) = fixed + rate (z - fixed), a rate per sample; also the samples of each call."""
    calls: list[Tensor] = []
    rate = torch.tensor(rates, dtype=torch.float64)[:, None, None, None]

    def f(z: Tensor, index: Tensor) -> Tensor:
        calls.append(index.clone())
        return fixed + rate[index] * (z - fixed)

    return calls, f


@pytest.mark.parametrize("name", list_solvers())
def test_every_solver_reports_each_sample(name: str) -> None:
    calls, f = linear_map([0.1, 0.5, 0.9])
    solution = get_solver(name).solve(
        f, START, tolerance=1e-6, max_iterations=10, criterion=intra_path
    )
    assert solution.z.shape == START.shape
    for field in (solution.iterations, solution.nfe, solution.contraction, solution.converged):
        assert field.shape == (3,)
    assert solution.residuals.shape[1] == 3
    counted = torch.bincount(torch.cat(calls), minlength=3)
    assert torch.equal(solution.nfe, counted)


def test_picard_converges_at_the_rate_of_the_map() -> None:
    _, f = linear_map([0.1, 0.5, 0.9])
    solution = get_solver("fixed-point").solve(
        f, START, tolerance=1e-12, max_iterations=8, criterion=intra_path
    )
    # From 0 to the fixed point 1 the error after k iterations is rate^k, exactly.
    error = (1.0 - solution.z).flatten(1).amax(1)
    expected = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64) ** 8
    torch.testing.assert_close(error, expected, rtol=1e-6, atol=1e-15)


def test_picard_estimates_the_contraction_of_each_sample() -> None:
    _, f = linear_map([0.1, 0.5, 0.9], fixed=100.0)
    start = torch.full_like(START, 99.0)
    solution = get_solver("fixed-point").solve(
        f, start, tolerance=1e-15, max_iterations=6, criterion=intra_path
    )
    expected = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    torch.testing.assert_close(solution.contraction, expected, rtol=0.02, atol=0)


def test_converged_samples_leave_the_batch() -> None:
    calls, f = linear_map([0.01, 0.5, 0.99])
    solution = get_solver("fixed-point").solve(
        f, START, tolerance=1e-3, max_iterations=12, criterion=intra_path
    )
    assert solution.converged.tolist() == [True, True, False]
    assert solution.iterations[0] < solution.iterations[1] < solution.iterations[2] == 12
    assert solution.iterations.tolist() == torch.bincount(torch.cat(calls)).tolist()
    unmeasured = solution.residuals[:, 0].isnan()
    assert unmeasured.tolist() == [k >= int(solution.iterations[0]) for k in range(12)]


def test_a_sample_is_solved_as_it_would_be_alone() -> None:
    _, together = linear_map([0.2, 0.7, 0.4])
    batched = get_solver("fixed-point").solve(
        together, START, tolerance=1e-5, max_iterations=30, criterion=intra_path
    )
    for position, rate in enumerate([0.2, 0.7, 0.4]):
        _, alone = linear_map([rate])
        single = get_solver("fixed-point").solve(
            alone, START[:1], tolerance=1e-5, max_iterations=30, criterion=intra_path
        )
        assert torch.equal(batched.z[position], single.z[0])
        assert batched.iterations[position] == single.iterations[0]


def test_a_map_that_does_not_contract_is_not_called_converged() -> None:
    _, f = linear_map([1.5, 1.5, 1.5])
    solution = get_solver("fixed-point").solve(
        f, START, tolerance=1e-3, max_iterations=6, criterion=intra_path
    )
    assert not solution.converged.any()


def test_ddim_is_one_application_and_claims_nothing() -> None:
    _, f = linear_map([0.5, 0.5, 0.5])
    solution = get_solver("ddim").solve(
        f, START, tolerance=1.0, max_iterations=9, criterion=intra_path
    )
    assert torch.equal(solution.z, torch.full_like(START, 0.5))
    assert solution.nfe.tolist() == [1, 1, 1]
    assert not solution.converged.any()
    assert solution.residuals.isnan().all()


def test_an_unknown_solver_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"newton.*fixed-point"):
        get_solver("newton")


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="registered already"):
        register_solver("ddim", cost="", exact=False, needs_grad=False, source="")(
            get_solver("ddim").solve
        )
