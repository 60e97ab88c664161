from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler

from dehaze.inversion import DDIMTable
from dehaze.inversion.stochastic import localisation, step_deviation, stochastic_step


@pytest.fixture(scope="module")
def scheduler() -> DDIMScheduler:
    made = DDIMScheduler(clip_sample=False, set_alpha_to_one=False)
    made.set_timesteps(10)
    return made


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_the_step_is_that_of_diffusers(scheduler: DDIMScheduler, eta: float) -> None:
    table = DDIMTable.from_scheduler(scheduler, 10)
    z, noise = torch.randn(2, 1, 4, 6, 8, generator=torch.Generator().manual_seed(0)).double()
    for i in range(10, 1, -1):
        ours = stochastic_step(
            table, i, table.denoise_step(z, noise, i), noise, eta, torch.Generator().manual_seed(i)
        )
        fresh = torch.randn(z.shape, generator=torch.Generator().manual_seed(i), dtype=z.dtype)
        theirs = scheduler.step(
            noise, table.timestep(i), z, eta=eta, variance_noise=fresh
        ).prev_sample
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        if eta:
            assert step_deviation(table, i, eta) > 0


def test_no_noise_is_added_to_a_clean_picture() -> None:
    table = DDIMTable.from_scheduler(DDIMScheduler(clip_sample=False, set_alpha_to_one=True), 10)
    assert step_deviation(table, 1, 1.0) == 0.0


def test_the_score_is_the_ratio_of_changes() -> None:
    focus = torch.zeros(1, 1, 2, 2)
    focus[..., 0, :] = 1.0
    source = torch.zeros(1, 3, 2, 2)
    edited = source.clone()
    edited[..., 0, :] = 4.0
    edited[..., 1, :] = 2.0
    assert localisation(edited, source, focus) == pytest.approx(2.0)
    assert localisation(source + 1.0, source, focus) == pytest.approx(1.0)
    edited[..., 0, :] = 0.0
    assert localisation(edited, source, focus) == 0.0
    # Half of the change inside is weighed down by a soft mask, by hand:
    soft = torch.tensor([[[[1.0, 0.5], [0.0, 0.0]]]])
    change = torch.tensor([[[[3.0, 1.0], [2.0, 0.0]]]])
    inside, outside = (9 + 0.5) / 1.5, (0.5 * 1 + 4) / 2.5
    got = localisation(change, torch.zeros_like(change), soft)
    assert got == pytest.approx(math.sqrt(inside / outside))
