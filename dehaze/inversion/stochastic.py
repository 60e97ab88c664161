"""Denoising with fresh noise, and the score by which the best of several samples is chosen."""

from __future__ import annotations

import math

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from dehaze.inversion.ddim import DDIMTable
from dehaze.inversion.schedule import Process, ScheduleError, StepTable
from dehaze.inversion.solvers import SOLVERS, Sampler


def step_deviation(table: StepTable, i: int, eta: float) -> float:
    """sigma_i = eta sqrt((1 - a_{i-1}) / (1 - a_i)) sqrt(1 - a_i / a_{i-1}); 0 at the last step.

    Raises:
        ScheduleError: the table is of a flow, whose steps have no noise of DDPM's, and eta is not
            0.

    Source: DDIM, arXiv 2010.02502, eq. 16.
    """
    check_eta(table.process, eta)
    if eta == 0.0 or not isinstance(table, DDIMTable):
        return 0.0
    now, after = table.alphas[i], table.alphas[i - 1]
    if after >= 1.0:
        return 0.0
    return eta * math.sqrt((1.0 - after) / (1.0 - now)) * math.sqrt(1.0 - now / after)


def check_eta(process: Process, eta: float, solver: str | None = None) -> None:
    """Refuses the noise of DDIM's steps where the way back has others.

    Args:
        process: of the model.
        eta: 0 for no noise.
        solver: that inverted, and goes back by its own steps where it is a sampler; None for none.

    Raises:
        ScheduleError: the model is of flow matching, or the solver a sampler.
    """
    if eta != 0.0 and solver is not None and isinstance(SOLVERS.get(solver), Sampler):
        raise ScheduleError(
            f"eta is {eta:g}: it is the noise of DDIM's steps, and {solver} goes back by steps of "
            "its own: leave it out"
        )
    if process != "ddim" and eta != 0.0:
        raise ScheduleError(
            f"eta is {eta:g}: it is the noise of DDIM's steps, and this model is of flow matching, "
            "whose steps have none: leave it out"
        )


def stochastic_step(
    table: StepTable,
    i: int,
    latents: Tensor,
    noise: Tensor,
    eta: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Turns z_{i-1} of a DDIM step into z_{i-1} of the step with eta > 0.

    z_{i-1} = sqrt(a_{i-1}) x_0 + sqrt(1 - a_{i-1} - sigma_i^2) eps + sigma_i n, n normal.

    Args:
        table: the schedule.
        i: the step.
        latents: z_{i-1} as DDIM gives it, (B, C, H, W).
        noise: the step's eps.
        eta: 0 for DDIM, 1 for DDPM.
        generator: of n; one of the CPU draws the same on every device. PyTorch's own when None.

    Source: DDIM, arXiv 2010.02502, eq. 12; used for editing by AIDI, arXiv 2309.04907.
    """
    deviation = step_deviation(table, i, eta)
    fresh = randn_tensor(latents.shape, generator, latents.device, latents.dtype)
    kept = math.sqrt(max(table.sigma(i - 1) ** 2 - deviation**2, 0.0))
    return latents + (kept - table.sigma(i - 1)) * noise + deviation * fresh


def localisation(edited: Tensor, source: Tensor, focus: Tensor) -> float:
    """The change of an edit in its focus, over the change of the rest of the picture.

    sqrt(mean_M d / mean_{1-M} d), where d is the squared change at a position of the latents,
    averaged over channels, and the means are weighted by M and by 1 - M. It is 1 for a change that
    is the same everywhere, and 0 for a change of the background alone.

    Args:
        edited: z_0, (1, C, H, W).
        source: z_0 of the picture as it was.
        focus: M, (1, 1, H, W) in [0, 1], high where the edited word is attended to.
    """
    change = (edited - source).square().mean(1, keepdim=True)
    inside = (focus * change).sum() / focus.sum().clamp(min=1e-12)
    outside = ((1.0 - focus) * change).sum() / (1.0 - focus).sum().clamp(min=1e-12)
    return float((inside / outside.clamp(min=1e-12)).sqrt())
