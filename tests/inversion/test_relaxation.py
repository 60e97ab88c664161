from __future__ import annotations

import math

import pytest
import torch
from schedules import FunctionNetwork, flow_table_of, mild, table_of
from torch import Tensor

from dehaze.inversion import RELAXATIONS, DDIMTable, InversionSettings, invert
from dehaze.inversion.schedule import StepTable


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


def factor(name: str, table: StepTable, i: int) -> float:
    """By how much the update of step i is longer than the residual."""
    lengthening = RELAXATIONS.get(name).of_step(table, i, latents().shape)
    update = lengthening(latents(), latents() + 1.0) - latents()
    torch.testing.assert_close(update, torch.full_like(update, float(update.mean())))
    return float(update.mean())


def noisy_table(steps: int) -> DDIMTable:
    return table_of(steps, "noisy-end", rescale_betas_zero_snr=True, set_alpha_to_one=True)


@pytest.mark.parametrize("name", ["wiener", "fitted"])
def test_the_factor_grows_from_one_as_the_signal_drowns(name: str) -> None:
    table = noisy_table(20)
    factors = [factor(name, table, i) for i in range(1, 21)]
    shares = []
    for i in range(2, 21):
        # Where nothing is left of the signal: 1 / (1 - B_i / s_i).
        limit = 1.0 / (1.0 - table.coefficients(i)[1] / table.sigma(i))
        shares.append((factors[i - 1] - 1.0) / (limit - 1.0))
    assert all(0.0 <= share <= 1.0 + 1e-9 for share in shares)
    assert shares[0] < 0.6
    assert shares[-1] > 0.8
    assert factors[-1] > 1.3


def test_unrelaxed_is_as_the_solver_makes_it() -> None:
    assert factor("none", table_of(10), 3) == 1.0
    z, mapped = latents(), latents() / 3.0
    assert RELAXATIONS.get("none").of_step(table_of(10), 3, z.shape)(z, mapped) is mapped


def test_fitted_solves_a_network_of_its_own_slope_at_once() -> None:
    """f' = (B / s) / (1 + k) with k = 2.32 (a / s^2)^.55 is Newton's step, from the first on."""
    table = noisy_table(10)

    def network(z: Tensor, i: int, index: Tensor) -> Tensor:
        k = 2.32 * (table.alphas[i] / table.sigma(i) ** 2) ** 0.55
        return z / (table.sigma(i) * (1.0 + k))

    named = FunctionNetwork(table, network)
    plain = InversionSettings(steps=10).changed(solver="ddim")
    once = invert(named, latents(), plain.changed(relaxation="fitted"))
    exact = invert(named, latents(), InversionSettings(steps=10, tolerance=1e-14))
    torch.testing.assert_close(once.trajectory, exact.trajectory, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("table", [noisy_table(10), flow_table_of(10)], ids=["ddim", "flow"])
def test_the_doubt_is_how_far_another_variance_moves_the_update(table: StepTable) -> None:
    """V = C H W / 16 of ``wiener``: latents that are a little wider have a larger V."""
    wiener, change = RELAXATIONS.get("wiener"), 1e-5
    for i in range(1, 11):
        stated = wiener.of_step(table, i, torch.Size((1, 1, 1, 100_000)))
        moved = wiener.of_step(table, i, torch.Size((1, 1, 1, 100_001))).factor
        assert abs(moved - stated.factor) / change == pytest.approx(stated.doubt, rel=1e-3)
        # Pure noise, as at a flow's last step, tells a filter nothing of the picture.
        assert stated.doubt > 0.0 or table.signal(i) == 0.0


def test_the_doubt_is_how_far_another_k_moves_the_update() -> None:
    table, change = noisy_table(10), 1e-5
    for i in range(1, 11):
        ratio = table.coefficients(i)[1] / table.sigma(i)
        k = 2.32 * (table.alphas[i] / table.sigma(i) ** 2) ** 0.55
        own, moved = (1.0 / (1.0 - ratio / (1.0 + each)) for each in (k, k * (1.0 + change)))
        stated = RELAXATIONS.get("fitted").of_step(table, i, latents().shape)
        assert stated.factor == pytest.approx(own)
        assert abs(moved - own) / change == pytest.approx(stated.doubt, rel=1e-3)
        assert stated.doubt > 0.0


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
