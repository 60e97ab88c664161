from __future__ import annotations

import math

import pytest
import torch
from schedules import FunctionNetwork, mild, table_of
from torch import Tensor

from dehaze.inversion import RELAXATIONS, DDIMTable, InversionSettings, invert
from dehaze.inversion.relaxation import cosines, filtered, transformed


def latents(batch: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, 4, 5, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("spacing", ["leading", "noisy-end"])
def test_wiener_solves_a_wiener_filters_steps_at_once(
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

    named = FunctionNetwork(table, network)
    plain_settings = InversionSettings(steps=10).changed(solver="ddim")
    once = invert(named, clean, plain_settings.changed(relaxation="wiener"))
    settings = InversionSettings(steps=10, tolerance=1e-14, max_iterations=500)
    exact = invert(named, clean, settings.changed(solver="fixed-point"))
    torch.testing.assert_close(once.trajectory, exact.trajectory, rtol=1e-9, atol=1e-9)
    plain = invert(named, clean, plain_settings)
    assert (plain.trajectory - exact.trajectory).abs().max() > 1e-3


def factor(name: str, table: DDIMTable, i: int, residual: Tensor) -> float:
    """By how much the update of step i is longer than the residual."""
    lengthening = RELAXATIONS.get(name).of_step(table, i, residual.shape)
    update = lengthening(torch.zeros_like(residual), residual)
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


def test_the_first_step_is_lengthened_less() -> None:
    table = table_of(10)
    for one in (wave(0, 0), wave(2, 2), wave(15, 23)):
        assert 1.0 < factor("spectral", table, 1, one) < factor("spectral", table, 2, one) + 0.2
    # B_1 = s_1: where the network knew nothing, no step would be long enough.
    assert factor("spectral", table, 1, wave(15, 23)) < 2.0


@pytest.mark.parametrize("relaxation", RELAXATIONS.names())
@pytest.mark.parametrize("criterion", ["intra-path", "inter-path"])
def test_a_relaxation_does_not_move_the_solution(relaxation: str, criterion: str) -> None:
    network = FunctionNetwork(table_of(10), mild)
    settings = InversionSettings(steps=10, tolerance=1e-13, max_iterations=300)
    plain = invert(network, latents(), settings.changed(solver="fixed-point", criterion=criterion))
    # Picard would be driven away by slopes as wrong as these are here.
    relaxed = invert(
        network,
        latents(),
        settings.changed(solver="anderson", relaxation=relaxation, criterion=criterion),
    )
    torch.testing.assert_close(relaxed.trajectory, plain.trajectory, rtol=1e-10, atol=1e-10)


def test_an_unknown_relaxation_is_named_with_those_there_are() -> None:
    settings = InversionSettings(steps=10, relaxation="yoga")
    with pytest.raises(ValueError, match=r"yoga.*wiener"):
        invert(FunctionNetwork(table_of(10), mild), latents(), settings)


def small_wave(row: int, column: int) -> Tensor:
    """One wave of the cosine transform, of 6 x 8 values in each of 3 channels."""
    return torch.outer(cosines(6)[row], cosines(8)[column]).expand(1, 3, -1, -1).contiguous()


@pytest.mark.parametrize("size", [1, 2, 7, 24])
def test_the_cosine_transform_is_orthonormal(size: int) -> None:
    rows = cosines(size)
    torch.testing.assert_close(rows @ rows.T, torch.eye(size, dtype=torch.float64))
    torch.testing.assert_close(rows[0], torch.full((size,), size**-0.5, dtype=torch.float64))


def test_spectral_factors_apply_per_sample() -> None:
    factors = torch.rand(2, 1, 6, 8, generator=torch.Generator().manual_seed(1)).double()
    both = torch.cat([small_wave(2, 5), small_wave(0, 1)])
    expected = torch.cat(
        [factors[0, 0, 2, 5] * small_wave(2, 5), factors[1, 0, 0, 1] * small_wave(0, 1)]
    )
    torch.testing.assert_close(filtered(both, factors), expected)
    torch.testing.assert_close(filtered(latents(), torch.ones(4, 5)), latents())


def test_the_transform_is_that_of_each_channel_alone() -> None:
    one = torch.zeros(1, 3, 6, 8, dtype=torch.float64)
    one[:, 1] = small_wave(3, 2)[:, 1]
    found = transformed(one)
    assert float(found[0, 1, 3, 2]) == pytest.approx(1.0)
    assert float(found.abs().sum()) == pytest.approx(1.0)
