from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from dehaze.inversion import DDIMTable, Inverter, denoise
from dehaze.inversion.exact import bdia_denoise, bdia_invert, edict_denoise, edict_invert

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def table_of(steps: int, prediction_type: str = "epsilon") -> DDIMTable:
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    return DDIMTable.from_scheduler(scheduler, steps)


def rough_network(z: Tensor, i: int, index: Tensor) -> Tensor:
    """Of a constant that no fixed-point iteration could follow at the noisy end."""
    return torch.sin(3.0 * z + 0.1 * i)


def mild_network(z: Tensor, i: int, index: Tensor) -> Tensor:
    return torch.tanh(0.3 * z + 0.02 * i)


def latents() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("steps", [4, 7, 50])
def test_edict_comes_back_whatever_the_network(steps: int, prediction_type: str) -> None:
    table = table_of(steps, prediction_type)
    pair = edict_invert(table, rough_network, latents())
    assert (pair[0] - latents()).abs().max() > 0.1
    for back in edict_denoise(table, rough_network, pair):
        assert (back - latents()).abs().max() < 1e-6


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [4, 7, 50])
@pytest.mark.parametrize("gamma", [0.92, 1.0])
def test_bdia_comes_back_whatever_the_network(
    steps: int, prediction_type: str, gamma: float
) -> None:
    table = table_of(steps, prediction_type)
    pair = bdia_invert(table, mild_network, latents(), gamma)
    assert (pair[1] - latents()).abs().max() > 0.1
    back = bdia_denoise(table, mild_network, pair, gamma)
    assert (back - latents()).abs().max() < 1e-6


def test_with_another_network_on_the_way_back_they_do_not_come_back() -> None:
    table = table_of(10)
    edict = edict_invert(table, mild_network, latents())
    bdia = bdia_invert(table, mild_network, latents())
    assert (edict_denoise(table, rough_network, edict)[0] - latents()).abs().max() > 0.01
    assert (bdia_denoise(table, rough_network, bdia) - latents()).abs().max() > 0.01


def test_where_the_noise_does_not_depend_on_the_latent_all_invert_alike() -> None:
    """Then DDIM, EDICT and BDIA are one sampler up to mixing, and the inverter agrees with both."""

    def constant(z: Tensor, i: int, index: Tensor) -> Tensor:
        return torch.full_like(z, 0.7)

    table = table_of(10)
    solved = Inverter(table, constant, tolerance=1e-12, max_iterations=3).invert(latents())
    for pair in (
        edict_invert(table, constant, latents()),
        bdia_invert(table, constant, latents()),
    ):
        torch.testing.assert_close(pair[1], solved.latents, rtol=1e-9, atol=1e-9)


def test_a_converged_inversion_comes_back_as_the_oracles_do() -> None:
    table = table_of(10)
    solved = Inverter(table, mild_network, tolerance=1e-12, max_iterations=200).invert(latents())
    oracle = edict_denoise(table, mild_network, edict_invert(table, mild_network, latents()))[0]
    torch.testing.assert_close(denoise(solved, mild_network), oracle, rtol=1e-6, atol=1e-6)


def test_each_step_costs_what_is_said() -> None:
    calls = {"edict": 0, "bdia": 0}

    def counting(name: str) -> object:
        def network(z: Tensor, i: int, index: Tensor) -> Tensor:
            calls[name] += 1
            return mild_network(z, i, index)

        return network

    edict_invert(table_of(10), counting("edict"), latents())  # type: ignore[arg-type]
    bdia_invert(table_of(10), counting("bdia"), latents())  # type: ignore[arg-type]
    assert calls == {"edict": 20, "bdia": 10}
