from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from dehaze.inversion import DDIMTable
from dehaze.inversion.adjustment import prompt_aware_adjustment


def table_of(steps: int) -> DDIMTable:
    return DDIMTable.from_scheduler(DDIMScheduler(clip_sample=False), steps)


def latents() -> Tensor:
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def network(z: Tensor, i: int, index: Tensor) -> Tensor:
    # The second sample's prompt fits its picture: its noise does not depend on the latent.
    return torch.where(index[:, None, None, None] == 0, torch.tanh(2.0 * z), 0.3)


def test_it_is_two_steps_up_and_two_down_with_the_prompt() -> None:
    calls: list[int] = []

    def counted(z: Tensor, i: int, index: Tensor) -> Tensor:
        calls.append(i)
        return network(z, i, index)

    adjustment = prompt_aware_adjustment(table_of(10), counted, latents())
    assert calls == [1, 2, 2, 1]
    assert adjustment.nfe == 4


def test_the_distance_is_that_of_each_sample() -> None:
    adjustment = prompt_aware_adjustment(table_of(10), network, latents())
    change = adjustment.latents - latents()
    expected = change[0].norm() / latents()[0].norm()
    assert float(adjustment.distance[0]) == pytest.approx(float(expected))
    assert float(adjustment.distance[0]) > 1e-3
    assert float(adjustment.distance[1]) < 1e-12


def test_a_schedule_of_one_step_is_refused() -> None:
    with pytest.raises(ValueError, match="1 to 1"):
        prompt_aware_adjustment(table_of(1), network, latents())
