from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from dehaze.inversion import DDIMTable, InversionResult, Inverter
from dehaze.inversion.adjustment import adjusted_invert, prompt_aware_adjustment


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


def test_what_is_inverted_is_the_adjusted_picture_and_the_result_says_so(tmp_path: Path) -> None:
    inverter = Inverter(table_of(6), network, max_iterations=3, tolerance=1e-12, evaluations=2)
    result = adjusted_invert(inverter, latents())
    adjustment = prompt_aware_adjustment(table_of(6), network, latents())
    assert torch.equal(result.trajectory[0], adjustment.latents)
    assert result.adjustment is not None
    torch.testing.assert_close(result.adjustment, adjustment.distance)
    assert result.adjustment[0] > 1e-3
    assert result.adjustment[1] < 1e-12
    # 3 iterations of every step, 4 evaluations of the adjustment, each of them guided.
    assert int(result.trace.nfe[:, 0].sum()) == 2 * (6 * 3 + 4)
    result.save(tmp_path / "inversion.safetensors")
    loaded = InversionResult.load(tmp_path / "inversion.safetensors").adjustment
    assert loaded is not None
    assert torch.equal(loaded, result.adjustment)
    assert inverter.invert(latents()).adjustment is None
