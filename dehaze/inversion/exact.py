"""EDICT and BDIA: samplers whose steps can be undone exactly, whatever the network predicts.

They take a second latent, and their trajectory is not DDIM's. The picture that comes back differs
by rounding alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dehaze.inversion.denoising import WayBack
from dehaze.inversion.noise_network import NoiseNetwork
from dehaze.inversion.result import InversionResult
from dehaze.inversion.settings import InversionSettings
from dehaze.inversion.solvers import SOLVERS, ExactSampler
from dehaze.inversion.trace import InversionTrace

_EDICT_MIXING = 0.93
_BDIA_GAMMA = 0.96


def edict_invert(
    network: NoiseNetwork,
    latents: Tensor,
    depth: int,
    on_step: Callable[[int], None] = lambda i: None,
    *,
    mixing: float = _EDICT_MIXING,
) -> InversionResult:
    """EDICT inversion: two coupled latents, both of which start at z_0.

    One denoising step; x and y change roles at each step:

        x' = (x_i - B_i eps(y_i, i)) / A_i,   y' = (y_i - B_i eps(x', i)) / A_i,
        x_{i-1} = p x' + (1 - p) y',          y_{i-1} = p y' + (1 - p) x_{i-1},

    and each equation can be solved for the latent on its right. A step takes 2 NFE, and multiplies
    the rounding error by about 1 / p^2.

    Args:
        network: under the source prompt.
        latents: z_0, (B, C, H, W).
        depth: steps to invert.
        on_step: called with i after each step.
        mixing: p, in (0, 1].

    Returns:
        the inversion; its trajectory and noise are those of x, the companion's those of y.

    Source: EDICT, arXiv 2211.12446.
    """
    table, everyone = network.table, torch.arange(latents.shape[0], device=latents.device)
    x, y = latents, latents
    trajectories: tuple[list[Tensor], list[Tensor]] = ([x], [y])
    noises: tuple[list[Tensor], list[Tensor]] = ([], [])
    for i in range(1, depth + 1):
        x, y = _in_turn(x, y, i)
        y = (y - (1.0 - mixing) * x) / mixing
        x = (x - (1.0 - mixing) * y) / mixing
        noise_of_y = network(x, i, everyone)
        y = table.inverse_step(y, noise_of_y, i)
        noise_of_x = network(y, i, everyone)
        x = table.inverse_step(x, noise_of_x, i)
        for kept, pair in (
            (trajectories, _in_turn(x, y, i)),
            (noises, _in_turn(noise_of_x, noise_of_y, i)),
        ):
            for values, value in zip(kept, pair, strict=True):
                values.append(value)
        x, y = trajectories[0][-1], trajectories[1][-1]
        on_step(i)
    (x_trajectory, y_trajectory), (x_noise, y_noise) = (
        tuple(torch.stack(values) for values in kept) for kept in (trajectories, noises)
    )
    return InversionResult(
        x_trajectory,
        x_noise,
        table,
        InversionTrace.unmeasured(depth, latents, evaluations=2 * network.cost),
        _settings("edict", network, depth),
        companion={"trajectory": y_trajectory, "noise": y_noise},
    )


def edict_denoise(
    inversion: InversionResult,
    way: WayBack,
    *,
    mixing: float = _EDICT_MIXING,
) -> Tensor:
    """The way back of ``edict_invert``: x_0, which is z_0 if every noise is the inversion's own."""
    table, companion = inversion.table, inversion.companion
    x, y = inversion.latents, companion["trajectory"][-1]
    for i in range(inversion.steps, 0, -1):
        source_of_x, source_of_y = _in_turn(inversion.noise[i - 1], companion["noise"][i - 1], i)
        x, y = _in_turn(x, y, i)
        noise_of_x = way.noise(y, i, source_of_x)
        x = table.denoise_step(x, noise_of_x, i)
        noise_of_y = way.noise(x, i, source_of_y)
        y = table.denoise_step(y, noise_of_y, i)
        x = mixing * x + (1.0 - mixing) * y
        y = mixing * y + (1.0 - mixing) * x
        x, y = _in_turn(x, y, i)
        x = way.after(i, x, _in_turn(noise_of_x, noise_of_y, i)[0])
        y = way.hold_second(i, y)
    return x


def bdia_invert(
    network: NoiseNetwork,
    latents: Tensor,
    depth: int,
    on_step: Callable[[int], None] = lambda i: None,
    *,
    gamma: float = _BDIA_GAMMA,
) -> InversionResult:
    """BDIA inversion: each latent is made of the two before it.

    With D_i(z) = (z - B_i eps(z, i)) / A_i, DDIM's step from i down to i - 1, and
    F_i(z) = A_{i+1} z + B_{i+1} eps(z, i), the explicit step up to i + 1, both of one evaluation:

        z_{i-1} = g (z_{i+1} - F_i(z_i)) + D_i(z_i),
        z_{i+1} = (z_{i-1} - D_i(z_i)) / g + F_i(z_i).

    It starts with z_1 = A_1 z_0 + B_1 eps(z_0, 1). A step takes 1 NFE, and multiplies the rounding
    error by about 1 / g.

    Args:
        network: under the source prompt.
        latents: z_0, (B, C, H, W).
        depth: steps to invert.
        on_step: called with i after each step.
        gamma: g, in (0, 1]; the paper takes 0.92 to 1.

    Returns:
        the inversion. The way back starts from the last two latents of its trajectory, z_n and
        z_{n-1}. ``noise[i - 1]`` is eps(z_i, i) for i < n. The last noise, which the way back does
        not use, is that of a DDIM step from z_{n-1} to z_n.

    Source: BDIA, arXiv 2307.10829.
    """
    table, everyone = network.table, torch.arange(latents.shape[0], device=latents.device)
    first = network(latents, 1, everyone)
    trajectory, noise = [latents, table.inverse_step(latents, first, 1)], []
    on_step(1)
    for i in range(1, depth):
        below, z = trajectory[-2:]
        noise.append(network(z, i, everyone))
        down, up = table.denoise_step(z, noise[-1], i), table.inverse_step(z, noise[-1], i + 1)
        trajectory.append((below - down) / gamma + up)
        on_step(i + 1)
    noise.append(table.noise_of_step(trajectory[-1], trajectory[-2], depth))
    return InversionResult(
        torch.stack(trajectory),
        torch.stack(noise),
        table,
        InversionTrace.unmeasured(depth, latents, evaluations=network.cost),
        _settings("bdia", network, depth),
    )


def bdia_denoise(
    inversion: InversionResult,
    way: WayBack,
    *,
    gamma: float = _BDIA_GAMMA,
) -> Tensor:
    """The way back of ``bdia_invert``: z_0, from z_n and z_{n-1}."""
    table = inversion.table
    z, above = inversion.trajectory[-2], inversion.trajectory[-1]
    z = way.after(inversion.steps, z, inversion.noise[-1])
    for i in range(inversion.steps - 1, 0, -1):
        noise = way.noise(z, i, inversion.noise[i - 1])
        down, up = table.denoise_step(z, noise, i), table.inverse_step(z, noise, i + 1)
        z, above = way.after(i, gamma * (above - up) + down, noise), z
    return z


def _settings(name: str, network: NoiseNetwork, depth: int) -> InversionSettings:
    return InversionSettings(steps=network.table.steps, depth=depth).changed(solver=name)


def _in_turn(x: Tensor, y: Tensor, i: int) -> tuple[Tensor, Tensor]:
    """x and y, exchanged at every other step."""
    return (x, y) if i % 2 else (y, x)


SOLVERS.register(
    "edict",
    ExactSampler(edict_invert, edict_denoise, "2 NFE a step", "EDICT, arXiv 2211.12446"),
)
SOLVERS.register(
    "bdia", ExactSampler(bdia_invert, bdia_denoise, "1 NFE a step", "BDIA, arXiv 2307.10829")
)
