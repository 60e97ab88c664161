from __future__ import annotations

from pathlib import Path

import pytest
import torch
from schedules import table_of
from torch import Tensor

from dehaze.inversion import DDIMTable, InversionResult, Inverter, denoise
from dehaze.inversion.exact import bdia_denoise, bdia_invert, edict_denoise, edict_invert
from dehaze.inversion.result import BlendedNoise, NoiseNetwork

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def rough_network(z: Tensor, i: int, index: Tensor) -> Tensor:
    """Of a constant that no fixed-point iteration could follow at the noisy end."""
    return torch.sin(3.0 * z + 0.1 * i)


def mild_network(z: Tensor, i: int, index: Tensor) -> Tensor:
    return torch.tanh(0.3 * z + 0.02 * i)


def predicting(table: DDIMTable, network: NoiseNetwork) -> NoiseNetwork:
    """The noise that a network's output stands for."""

    def noise(z: Tensor, i: int, index: Tensor) -> Tensor:
        return table.predicted_noise(network(z, i, index), z, i)

    return noise


def anew(network: NoiseNetwork) -> BlendedNoise:
    """The noise that the network predicts, whatever the inversion found."""

    def noise_at(z: Tensor, i: int, source: Tensor) -> Tensor:
        return network(z, i, torch.arange(len(z)))

    return noise_at


def latents() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("steps", [4, 7, 50])
def test_edict_comes_back_whatever_the_network(steps: int, prediction_type: str) -> None:
    table = table_of(steps, prediction_type=prediction_type)
    network = predicting(table, rough_network)
    inversion = edict_invert(table, network, latents(), steps)
    assert (inversion.latents - latents()).abs().max() > 0.1
    assert (inversion.companion["trajectory"][-1] - inversion.latents).abs().max() > 0.01
    back = edict_denoise(inversion, anew(network))
    assert (back - latents()).abs().max() < 1e-6


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [4, 7, 50])
@pytest.mark.parametrize("gamma", [0.92, 1.0])
def test_bdia_comes_back_whatever_the_network(
    steps: int, prediction_type: str, gamma: float
) -> None:
    table = table_of(steps, prediction_type=prediction_type)
    network = predicting(table, mild_network)
    inversion = bdia_invert(table, network, latents(), steps, gamma=gamma)
    assert (inversion.latents - latents()).abs().max() > 0.1
    back = bdia_denoise(inversion, anew(network), gamma=gamma)
    assert (back - latents()).abs().max() < 1e-6


def test_with_another_network_on_the_way_back_they_do_not_come_back() -> None:
    table = table_of(10)
    edict = edict_invert(table, mild_network, latents(), 10)
    bdia = bdia_invert(table, mild_network, latents(), 10)
    other = anew(rough_network)
    assert (edict_denoise(edict, other) - latents()).abs().max() > 0.01
    assert (bdia_denoise(bdia, other) - latents()).abs().max() > 0.01


def test_where_the_noise_does_not_depend_on_the_latent_all_invert_alike() -> None:
    """Then DDIM, EDICT and BDIA are one sampler up to mixing, and the inverter agrees with both."""

    def constant(z: Tensor, i: int, index: Tensor) -> Tensor:
        return torch.full_like(z, 0.7)

    table = table_of(10)
    solved = Inverter(table, constant, tolerance=1e-12, max_iterations=3).invert(latents())
    for invert in (edict_invert, bdia_invert):
        made = invert(table, constant, latents(), 10)
        torch.testing.assert_close(made.trajectory, solved.trajectory, rtol=1e-9, atol=1e-9)


def test_a_converged_inversion_comes_back_as_the_oracles_do() -> None:
    table = table_of(10)
    solved = Inverter(table, mild_network, tolerance=1e-12, max_iterations=200).invert(latents())
    oracle = Inverter(table, mild_network, solver="edict").invert(latents())
    torch.testing.assert_close(
        denoise(solved, mild_network), denoise(oracle, mild_network), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize(("method", "cost"), [("edict", 2), ("bdia", 1)])
def test_each_step_costs_what_is_said(method: str, cost: int) -> None:
    calls = 0

    def counting(z: Tensor, i: int, index: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return mild_network(z, i, index)

    result = Inverter(table_of(10), counting, solver=method, evaluations=2).invert(latents())
    assert calls == 10 * cost
    assert int(result.trace.nfe[:, 0].sum()) == 2 * calls
    assert result.trace.converged.all()
    assert result.trace.residuals.isnan().all()


@pytest.mark.parametrize("method", ["edict", "bdia"])
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_a_partial_inversion_comes_back_too(method: str, depth: int) -> None:
    steps: list[int] = []
    inverter = Inverter(table_of(10), mild_network, solver=method)
    result = inverter.invert(latents(), depth=depth, on_step=steps.append)
    assert steps == list(range(1, depth + 1))
    assert result.trajectory.shape == (depth + 1, *latents().shape)
    assert result.noise.shape == (depth, *latents().shape)
    back = denoise(result, mild_network, on_step=lambda i, z: steps.append(i))
    assert (back - latents()).abs().max() < 1e-9
    assert steps[depth:] == list(range(depth, 0, -1))


@pytest.mark.parametrize("method", ["edict", "bdia"])
def test_a_saved_inversion_knows_its_way_back(method: str, tmp_path: Path) -> None:
    result = Inverter(table_of(6), mild_network, solver=method).invert(latents())
    result.save(tmp_path / "inversion.safetensors")
    loaded = InversionResult.load(tmp_path / "inversion.safetensors")
    assert loaded.method == method
    assert (denoise(loaded, mild_network) - latents()).abs().max() < 1e-9
