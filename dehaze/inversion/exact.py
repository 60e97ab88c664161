"""Exact inversion by construction: the price is a second latent, and another sampler than DDIM.

EDICT and BDIA undo their own steps whatever the network does, to rounding. What they invert is not
DDIM's trajectory: both evaluate the network beside it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dehaze.inversion.inverter import NetworkFunction
from dehaze.inversion.schedule import DDIMTable

_EDICT_MIXING = 0.93
_BDIA_GAMMA = 0.96


def edict_invert(
    table: DDIMTable, network: NetworkFunction, latents: Tensor, mixing: float = _EDICT_MIXING
) -> tuple[Tensor, Tensor]:
    """EDICT inversion: two coupled latents, both of which start at z_0.

    A denoising step, with x and y changing roles at each:

        x' = (x_i - B_i eps(y_i, i)) / A_i,   y' = (y_i - B_i eps(x', i)) / A_i,
        x_{i-1} = p x' + (1 - p) y',          y_{i-1} = p y' + (1 - p) x_{i-1},

    and each line of it can be solved for what it was made of. 2 NFE a step. Rounding grows by about
    1 / p^2 a step.

    Args:
        table: the schedule.
        network: under the source prompt.
        latents: z_0, (B, C, H, W).
        mixing: p, in (0, 1].

    Returns:
        (x_N, y_N), each (B, C, H, W).

    Source: EDICT, arXiv 2211.12446.
    """
    everyone = torch.arange(latents.shape[0], device=latents.device)
    x, y = latents, latents
    for i in range(1, table.steps + 1):
        x, y = _in_turn(x, y, i)
        y = (y - (1.0 - mixing) * x) / mixing
        x = (x - (1.0 - mixing) * y) / mixing
        y = table.inverse_step(y, _noise(table, network, x, i, everyone), i)
        x = table.inverse_step(x, _noise(table, network, y, i, everyone), i)
        x, y = _in_turn(x, y, i)
    return x, y


def edict_denoise(
    table: DDIMTable,
    network: NetworkFunction,
    pair: tuple[Tensor, Tensor],
    mixing: float = _EDICT_MIXING,
) -> tuple[Tensor, Tensor]:
    """The way back of ``edict_invert``: (x_N, y_N) -> (x_0, y_0), both z_0 under its network."""
    x, y = pair
    everyone = torch.arange(x.shape[0], device=x.device)
    for i in range(table.steps, 0, -1):
        x, y = _in_turn(x, y, i)
        x = table.denoise_step(x, _noise(table, network, y, i, everyone), i)
        y = table.denoise_step(y, _noise(table, network, x, i, everyone), i)
        x = mixing * x + (1.0 - mixing) * y
        y = mixing * y + (1.0 - mixing) * x
        x, y = _in_turn(x, y, i)
    return x, y


def bdia_invert(
    table: DDIMTable, network: NetworkFunction, latents: Tensor, gamma: float = _BDIA_GAMMA
) -> tuple[Tensor, Tensor]:
    """BDIA inversion: each latent is made of the two before it.

    With D_i(z) = (z - B_i eps(z, i)) / A_i, DDIM's step from i down to i - 1, and
    F_i(z) = A_{i+1} z + B_{i+1} eps(z, i), the explicit step up to i + 1, both of one evaluation:

        z_{i-1} = g (z_{i+1} - F_i(z_i)) + D_i(z_i),
        z_{i+1} = (z_{i-1} - D_i(z_i)) / g + F_i(z_i).

    It starts with z_1 = A_1 z_0 + B_1 eps(z_0, 1). 1 NFE a step. Rounding grows by about 1 / g a
    step.

    Args:
        table: the schedule, of at least 2 steps.
        network: under the source prompt.
        latents: z_0, (B, C, H, W).
        gamma: g, in (0, 1]; the paper takes 0.92 to 1.

    Returns:
        (z_{N-1}, z_N), each (B, C, H, W): both are needed to come back.

    Source: BDIA, arXiv 2307.10829.
    """
    everyone = torch.arange(latents.shape[0], device=latents.device)
    noise = _noise(table, network, latents, 1, everyone)
    below, z = latents, table.inverse_step(latents, noise, 1)
    for i in range(1, table.steps):
        noise = _noise(table, network, z, i, everyone)
        down, up = table.denoise_step(z, noise, i), table.inverse_step(z, noise, i + 1)
        below, z = z, (below - down) / gamma + up
    return below, z


def bdia_denoise(
    table: DDIMTable,
    network: NetworkFunction,
    pair: tuple[Tensor, Tensor],
    gamma: float = _BDIA_GAMMA,
) -> Tensor:
    """The way back of ``bdia_invert``: (z_{N-1}, z_N) -> z_0."""
    z, above = pair
    everyone = torch.arange(z.shape[0], device=z.device)
    for i in range(table.steps - 1, 0, -1):
        noise = _noise(table, network, z, i, everyone)
        down, up = table.denoise_step(z, noise, i), table.inverse_step(z, noise, i + 1)
        z, above = gamma * (above - up) + down, z
    return z


def _noise(
    table: DDIMTable, network: NetworkFunction, z: Tensor, i: int, everyone: Tensor
) -> Tensor:
    return table.predicted_noise(network(z, i, everyone).to(z.dtype), z, i)


def _in_turn(x: Tensor, y: Tensor, i: int) -> tuple[Tensor, Tensor]:
    return (x, y) if i % 2 else (y, x)
