from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from dehaze.inversion import DDIMTable, Inverter, list_relaxations
from dehaze.inversion.relaxation import get_relaxation


def table_of(steps: int, spacing: str = "leading", *, zero_terminal: bool = False) -> DDIMTable:
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
        rescale_betas_zero_snr=zero_terminal,
    )
    return DDIMTable.from_scheduler(scheduler, steps, spacing)


def latents(batch: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, 4, 5, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("spacing", ["leading", "noisy-end"])
def test_where_the_network_is_the_wiener_filter_one_evaluation_solves_each_step(
    spacing: str,
) -> None:
    """x0hat = sqrt(a) V / (a V + s^2) z, V = C H W / 16: the relaxed step is Newton's."""
    table = table_of(10, spacing)
    clean = latents()
    variance = clean[0].numel() / 16.0

    def network(z: Tensor, i: int, index: Tensor) -> Tensor:
        alpha, sigma = table.alphas[i], table.sigma(i)
        picture = math.sqrt(alpha) * variance / (alpha * variance + sigma**2) * z
        return (z - math.sqrt(alpha) * picture) / sigma

    settings = {"solver": "ddim", "predictor": "previous"}
    once = Inverter(table, network, relaxation="wiener", **settings).invert(clean)
    exact = Inverter(table, network, tolerance=1e-14, max_iterations=500).invert(clean)
    torch.testing.assert_close(once.trajectory, exact.trajectory, rtol=1e-9, atol=1e-9)
    plain = Inverter(table, network, **settings).invert(clean)
    assert (plain.trajectory - exact.trajectory).abs().max() > 1e-3


def test_the_factor_grows_from_one_as_the_signal_drowns() -> None:
    table = table_of(20, "noisy-end", zero_terminal=True)
    factors = [get_relaxation("wiener").factor(table, i, 4096) for i in range(1, 21)]
    assert all(factor >= 1.0 for factor in factors)
    # Never longer than where nothing is left of the signal: 1 / (1 - B_i / s_i).
    for i in range(2, 21):
        assert factors[i - 1] <= 1.0 / (1.0 - table.coefficients(i)[1] / table.sigma(i)) + 1e-12
    assert factors[1] < 1.05
    assert factors[-1] > 1.3


def test_unrelaxed_is_as_the_solver_makes_it() -> None:
    assert get_relaxation("none").factor(table_of(10), 3, 60) == 1.0


@pytest.mark.parametrize("relaxation", list_relaxations())
@pytest.mark.parametrize("criterion", ["intra-path", "inter-path"])
def test_a_relaxation_does_not_move_the_solution(relaxation: str, criterion: str) -> None:
    def network(z: Tensor, i: int, index: Tensor) -> Tensor:
        return torch.tanh(0.5 * z + 0.1 * i)

    settings = {"tolerance": 1e-13, "max_iterations": 300, "criterion": criterion}
    plain = Inverter(table_of(10), network, **settings).invert(latents())
    relaxed = Inverter(table_of(10), network, relaxation=relaxation, **settings).invert(latents())
    torch.testing.assert_close(relaxed.trajectory, plain.trajectory, rtol=1e-10, atol=1e-10)


def test_an_unknown_relaxation_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"yoga.*wiener"):
        Inverter(table_of(10), lambda z, i, index: z, relaxation="yoga")
