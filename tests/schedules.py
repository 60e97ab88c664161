"""Schedules of Stable Diffusion's betas and of flows, and networks on them, for tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from dehaze.inversion import DDIMTable, FlowTable, StepTable


def scheduler_of(**settings: Any) -> DDIMScheduler:
    """Stable Diffusion's scheduler with some settings changed."""
    defaults: dict[str, Any] = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "steps_offset": 1,
        "set_alpha_to_one": False,
    }
    return DDIMScheduler(**{**defaults, **settings})


def table_of(steps: int, spacing: str = "leading", **settings: Any) -> DDIMTable:
    """The table of ``steps`` steps of the scheduler with these settings changed."""
    return DDIMTable.from_scheduler(scheduler_of(**settings), steps, spacing)


def flow_table_of(steps: int, shift: float = 3.0) -> FlowTable:
    """The table of ``steps`` steps, spaced as in Stable Diffusion 3."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    return FlowTable.from_scheduler(scheduler, steps, positions=16)


@dataclass
class FunctionNetwork:
    """A stand-in for a network: a function of latents, step and positions.

    Attributes:
        table: the schedule.
        output: what the network would return; the table turns it into noise.
        cost: network evaluations that a call stands for.
        calls: the step of each call so far.
        rows: the positions of each call so far.
    """

    table: StepTable
    output: Callable[[Tensor, int, Tensor], Tensor]
    cost: int = 1
    calls: list[int] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)

    def __call__(self, latents: Tensor, i: int, index: Tensor) -> Tensor:
        self.calls.append(i)
        self.rows.append(index.clone())
        return self.table.predicted_noise(self.output(latents, i, index), latents, i)


@dataclass
class VelocityNetwork:
    """A stand-in for a flow's network: a function of latents and sigma.

    Attributes:
        table: the schedule.
        velocity: v(z, sigma).
        cost: network evaluations that a call stands for.
        sigmas: of each call so far.
    """

    table: FlowTable
    velocity: Callable[[Tensor, float], Tensor]
    cost: int = 1
    sigmas: list[float] = field(default_factory=list)

    def __call__(self, latents: Tensor, i: int, index: Tensor) -> Tensor:
        return self.at(latents, i, index, self.table.sigma(i))

    def at(self, latents: Tensor, i: int, index: Tensor, sigma: float) -> Tensor:
        self.sigmas.append(sigma)
        return self.velocity(latents, sigma)


def mild(z: Tensor, i: int, index: Tensor) -> Tensor:
    """Smooth, of small Lipschitz constant, different at each step."""
    return torch.tanh(0.5 * z + 0.1 * i)
