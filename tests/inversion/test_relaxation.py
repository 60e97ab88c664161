from __future__ import annotations

import math

import pytest
import torch
from schedules import table_of
from torch import Tensor

from dehaze.inversion import DDIMTable, Inverter, list_relaxations
from dehaze.inversion.relaxation import get_relaxation
from dehaze.inversion.spectrum import cosines


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


def factor(name: str, table: DDIMTable, i: int, residual: Tensor) -> float:
    """By how much the update of step i is longer than the residual."""
    update = get_relaxation(name).lengthen(table, i, residual.shape)(residual)
    length = float(update.norm() / residual.norm())
    torch.testing.assert_close(update, length * residual, rtol=1e-6, atol=1e-9)
    return length


def wave(row: int, column: int) -> Tensor:
    """One wave of the cosine transform, of 16 x 24 values in each of 12 channels."""
    return torch.outer(cosines(16)[row], cosines(24)[column]).expand(1, 12, -1, -1).contiguous()


@pytest.mark.parametrize("name", ["wiener", "spectral"])
def test_the_factor_grows_from_one_as_the_signal_drowns(name: str) -> None:
    table = table_of(20, "noisy-end", rescale_betas_zero_snr=True, set_alpha_to_one=True)
    factors = [factor(name, table, i, wave(1, 1)) for i in range(1, 21)]
    shares = []
    for i in range(2, 21):
        # Where nothing is left of the signal: 1 / (1 - B_i / s_i).
        limit = 1.0 / (1.0 - table.coefficients(i)[1] / table.sigma(i))
        shares.append((factors[i - 1] - 1.0) / (limit - 1.0))
    assert all(0.0 <= share <= 1.0 + 1e-9 for share in shares)
    assert shares[0] < 0.6
    assert shares[-1] > 0.8
    assert factors[-1] > 1.3


def test_fine_waves_are_lengthened_more_than_coarse_ones() -> None:
    table = table_of(20, "noisy-end", rescale_betas_zero_snr=True, set_alpha_to_one=True)
    for i in range(2, 18):
        waves = (wave(0, 0), wave(2, 3), wave(8, 0), wave(15, 23))
        factors = [factor("spectral", table, i, one) for one in waves]
        assert factors == sorted(factors)
        assert factors[-1] > factors[0] * 1.01
        assert len({round(factor("wiener", table, i, one), 9) for one in waves}) == 1


def test_unrelaxed_is_as_the_solver_makes_it() -> None:
    assert factor("none", table_of(10), 3, wave(2, 2)) == 1.0


def test_the_first_step_is_lengthened_less_as_slopes_hold_near_its_solution() -> None:
    table = table_of(10)
    for one in (wave(0, 0), wave(2, 2), wave(15, 23)):
        assert 1.0 < factor("spectral", table, 1, one) < factor("spectral", table, 2, one) + 0.2
    # B_1 = s_1: where the network knew nothing, no step would be long enough.
    assert factor("spectral", table, 1, wave(15, 23)) < 2.0


@pytest.mark.parametrize("relaxation", list_relaxations())
@pytest.mark.parametrize("criterion", ["intra-path", "inter-path"])
def test_a_relaxation_does_not_move_the_solution(relaxation: str, criterion: str) -> None:
    def network(z: Tensor, i: int, index: Tensor) -> Tensor:
        return torch.tanh(0.5 * z + 0.1 * i)

    settings = {"tolerance": 1e-13, "max_iterations": 300, "criterion": criterion}
    plain = Inverter(table_of(10), network, **settings).invert(latents())
    # Picard would be driven away by slopes as wrong as these are here.
    relaxed = Inverter(
        table_of(10), network, solver="anderson", relaxation=relaxation, **settings
    ).invert(latents())
    torch.testing.assert_close(relaxed.trajectory, plain.trajectory, rtol=1e-10, atol=1e-10)


def test_an_unknown_relaxation_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"yoga.*wiener"):
        Inverter(table_of(10), lambda z, i, index: z, relaxation="yoga")
