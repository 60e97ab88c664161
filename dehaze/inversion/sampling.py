"""A generated picture as the start of an edit: its path is known, so nothing is inverted."""

from __future__ import annotations

import torch
from torch import Tensor

from dehaze.inversion.result import InversionResult, InversionTrace, NoiseNetwork
from dehaze.inversion.schedule import DDIMTable


@torch.no_grad()
def sample(
    table: DDIMTable, network: NoiseNetwork, latents: Tensor, *, evaluations: int = 1
) -> InversionResult:
    """Denoises noise to a picture and keeps the path, as an inversion without error.

    Each z_i solves z_i = f_i(z_i) with the very noise that made z_{i-1} of it.

    Args:
        table: the schedule.
        network: under the prompt.
        latents: z_N, (B, C, H, W), normal noise.
        evaluations: network evaluations that one call of ``network`` costs (2 under guidance).

    Raises:
        NonFiniteError: the network returned a value that is not finite.

    Source: FPI, arXiv 2312.12540, whose code edits generated pictures beside photos.
    """
    z = latents if latents.dtype == torch.float64 else latents.float()
    everyone = torch.arange(z.shape[0], device=z.device)
    trajectory, noises = [z], []
    for i in range(table.steps, 0, -1):
        noise = network(z, i, everyone)
        z = table.denoise_step(z, noise, i)
        trajectory.append(z)
        noises.append(noise)
    shape = (table.steps, z.shape[0])
    trace = InversionTrace(
        residuals=torch.zeros(shape[0], 1, shape[1]),
        inter=torch.full((shape[0], 1, shape[1]), torch.nan),
        bounds=torch.zeros(shape[0], 1, shape[1]),
        iterations=torch.ones(shape, dtype=torch.int64),
        nfe=torch.full(shape, evaluations, dtype=torch.int64),
        contraction=torch.full(shape, torch.nan),
        converged=torch.ones(shape, dtype=torch.bool),
    )
    return InversionResult(torch.stack(trajectory[::-1]), torch.stack(noises[::-1]), table, trace)
