from __future__ import annotations

from pathlib import Path

import pytest
import torch
from schedules import FunctionNetwork, table_of
from torch import Tensor

from dehaze.inversion import (
    InversionResult,
    InversionSettings,
    WayBack,
    denoise,
    invert,
)
from dehaze.inversion.exact import bdia_denoise, bdia_invert, edict_denoise, edict_invert

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def rough_network(z: Tensor, i: int, index: Tensor) -> Tensor:
    """Its Lipschitz constant makes fixed-point iterations diverge at the noisy end."""
    return torch.sin(3.0 * z + 0.1 * i)


def mild_network(z: Tensor, i: int, index: Tensor) -> Tensor:
    return torch.tanh(0.3 * z + 0.02 * i)


def latents() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("steps", [4, 7, 50])
def test_edict_comes_back_whatever_the_network(steps: int, prediction_type: str) -> None:
    table = table_of(steps, prediction_type=prediction_type)
    network = FunctionNetwork(table, rough_network)
    inversion = edict_invert(network, latents(), steps)
    assert (inversion.latents - latents()).abs().max() > 0.1
    assert (inversion.companion["trajectory"][-1] - inversion.latents).abs().max() > 0.01
    back = edict_denoise(inversion, WayBack(network))
    assert (back - latents()).abs().max() < 1e-6


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [4, 7, 50])
@pytest.mark.parametrize("gamma", [0.92, 1.0])
def test_bdia_comes_back_whatever_the_network(
    steps: int, prediction_type: str, gamma: float
) -> None:
    table = table_of(steps, prediction_type=prediction_type)
    network = FunctionNetwork(table, mild_network)
    inversion = bdia_invert(network, latents(), steps, gamma=gamma)
    assert (inversion.latents - latents()).abs().max() > 0.1
    back = bdia_denoise(inversion, WayBack(network), gamma=gamma)
    assert (back - latents()).abs().max() < 1e-6


def test_another_network_on_the_way_back_does_not_come_back() -> None:
    table = table_of(10)
    mild = FunctionNetwork(table, mild_network)
    edict = edict_invert(mild, latents(), 10)
    bdia = bdia_invert(mild, latents(), 10)
    other = WayBack(FunctionNetwork(table, rough_network))
    assert (edict_denoise(edict, other) - latents()).abs().max() > 0.01
    assert (bdia_denoise(bdia, other) - latents()).abs().max() > 0.01


def test_constant_noise_is_inverted_alike_by_all() -> None:
    """Then DDIM, EDICT and BDIA are one sampler up to mixing, and the inverter agrees with both."""
    constant = FunctionNetwork(table_of(10), lambda z, i, index: torch.full_like(z, 0.7))
    solved = invert(constant, latents(), InversionSettings(steps=10))
    for exact_invert in (edict_invert, bdia_invert):
        made = exact_invert(constant, latents(), 10)
        torch.testing.assert_close(made.trajectory, solved.trajectory, rtol=1e-9, atol=1e-9)


def test_a_converged_inversion_comes_back_as_the_oracles_do() -> None:
    network = FunctionNetwork(table_of(10), mild_network)
    settings = InversionSettings(steps=10, tolerance=1e-12, max_iterations=200)
    solved = invert(network, latents(), settings)
    oracle = invert(network, latents(), settings.changed(solver="edict"))
    torch.testing.assert_close(
        denoise(solved, network), denoise(oracle, network), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize(("method", "cost"), [("edict", 2), ("bdia", 1)])
def test_each_step_costs_the_stated_evaluations(method: str, cost: int) -> None:
    network = FunctionNetwork(table_of(10), mild_network, cost=2)
    result = invert(network, latents(), InversionSettings(steps=10).changed(solver=method))
    assert len(network.calls) == 10 * cost
    assert int(result.trace.nfe[:, 0].sum()) == 2 * len(network.calls)
    # Nothing was solved, so nothing converged.
    assert result.trace.stopped.all()
    assert not result.trace.converged.any()
    assert result.trace.residuals.isnan().all()


@pytest.mark.parametrize("method", ["edict", "bdia"])
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_a_partial_inversion_comes_back_too(method: str, depth: int) -> None:
    steps: list[int] = []
    network = FunctionNetwork(table_of(10), mild_network)
    settings = InversionSettings(steps=10, depth=depth).changed(solver=method)
    result = invert(network, latents(), settings, on_step=steps.append)
    assert steps == list(range(1, depth + 1))
    assert result.trajectory.shape == (depth + 1, *latents().shape)
    assert result.noise.shape == (depth, *latents().shape)
    back = denoise(result, network, on_step=lambda i, z: steps.append(i))
    assert (back - latents()).abs().max() < 1e-9
    assert steps[depth:] == list(range(depth, 0, -1))


@pytest.mark.parametrize("method", ["edict", "bdia"])
def test_a_saved_inversion_knows_its_way_back(method: str, tmp_path: Path) -> None:
    network = FunctionNetwork(table_of(6), mild_network)
    result = invert(network, latents(), InversionSettings(steps=6).changed(solver=method))
    result.save(tmp_path / "inversion.safetensors")
    loaded = InversionResult.load(tmp_path / "inversion.safetensors")
    assert loaded.settings.solver == method
    assert (denoise(loaded, network) - latents()).abs().max() < 1e-9
