"""From an inverted latent back to a picture: reconstruction, edit, and mixtures of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dehaze.inversion.noise_network import NoiseNetwork
from dehaze.inversion.result import InversionResult
from dehaze.inversion.settings import InversionSettings
from dehaze.inversion.solvers import SOLVERS, Sampler
from dehaze.inversion.trace import InversionTrace


def unrevised(i: int, latents: Tensor, noise: Tensor) -> Tensor:
    """z_{i-1} as the sampler made it."""
    return latents


def unheld(i: int, latents: Tensor) -> Tensor:
    """A second latent as the sampler made it."""
    return latents


def unreported(i: int, latents: Tensor) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class WayBack:
    """The noise of a sampler's denoising steps, and the actions after each step.

    The noise is eps = eps_src + w (eps_tgt - eps_src).

    Attributes:
        network: predicts eps_tgt.
        source_network: predicts eps_src at the latents of the way back; with None, eps_src is the
            noise of that step of the inversion.
        strength: w, one number, or a map that broadcasts to (B, C, H, W).
        revise: takes i, z_{i-1} and the step's eps after step i; returns the z_{i-1} to go on with.
        hold_second: takes i and the second latent of a sampler that has two, such as EDICT, after
            ``revise``; returns the one to go on with.
        on_step: called with i and z_{i-1} after each step.
    """

    network: NoiseNetwork
    source_network: NoiseNetwork | None = None
    strength: float | Tensor = 1.0
    revise: Callable[[int, Tensor, Tensor], Tensor] = unrevised
    hold_second: Callable[[int, Tensor], Tensor] = unheld
    on_step: Callable[[int, Tensor], None] = unreported

    def noise(self, latents: Tensor, i: int, source: Tensor) -> Tensor:
        """eps of step i at these latents, where the inversion's noise is ``source``."""
        everyone = torch.arange(latents.shape[0], device=latents.device)
        if self.source_network is not None:
            source = self.source_network(latents, i, everyone)
        if not bool(torch.as_tensor(self.strength).any()):
            return source
        return source + self.strength * (self.network(latents, i, everyone) - source)

    def after(self, i: int, latents: Tensor, noise: Tensor) -> Tensor:
        """The z_{i-1} to go on with after step i."""
        latents = self.revise(i, latents, noise)
        self.on_step(i, latents)
        return latents


def denoise(
    inversion: InversionResult,
    network: NoiseNetwork,
    *,
    source_network: NoiseNetwork | None = None,
    strength: float | Tensor = 1.0,
    steps: int | None = None,
    revise: Callable[[int, Tensor, Tensor], Tensor] = unrevised,
    hold_second: Callable[[int, Tensor], Tensor] = unheld,
    on_step: Callable[[int, Tensor], None] = unreported,
) -> Tensor:
    """Denoises z_n to z_0, with a noise between the source's and the target's.

    w = 0 undoes the inversion exactly and never runs the target's network; w = 1 takes the target's
    noise alone. The steps back are those of the solver that inverted: the schedule's own, DDIM's or
    a flow's, or a sampler's, such as EDICT's or RF-Solver's.

    A model whose network finds z_0 from noise at once needs one or two steps only. The last of
    them, step i, then goes to z_0 instead of z_{i-1} (DDIM on a subsequence of the timesteps). With
    x(z, eps) = (z - s_i eps) / sqrt(a_i) and a_0 = 1,

        z_0 = (1 - w) z_0' + w x(z_i, eps_tgt),

    where z_0' is the inverted picture.

    Args:
        inversion: from ``invert``.
        network: under the target prompt.
        source_network: under the source prompt; evaluates eps_src at the latents of the way back,
            which costs one more evaluation a step.
        strength, revise, hold_second, on_step: see ``WayBack``. After the step that goes to z_0
            they are told that step 1 was taken.
        steps: how many of the schedule's steps are taken, from the noisy end; None for all.

    Returns:
        z_0, float32 (B, C, H, W).

    Raises:
        NonFiniteError: the network returned a value that is not finite.
        ValueError: ``steps`` is below 1 or above those of the inversion; or the solver is a
            sampler, which takes all.

    Source: Song, Meng and Ermon, "Denoising Diffusion Implicit Models", section 4.2.
    """
    if steps is not None and not 1 <= steps <= inversion.steps:
        raise ValueError(f"steps is {steps}: it must lie between 1 and {inversion.steps}")
    way = WayBack(network, source_network, strength, revise, hold_second, on_step)
    sampler = SOLVERS.get(inversion.settings.solver)
    taken = inversion.steps if steps is None else steps
    if isinstance(sampler, Sampler):
        if taken < inversion.steps:
            raise ValueError(
                f"{inversion.settings.solver} goes back by its own steps: all are taken"
            )
        return sampler.denoise(inversion, way)
    return take_steps_back(inversion, way, taken)


def take_steps_back(inversion: InversionResult, way: WayBack, taken: int) -> Tensor:
    """z_0 by the schedule's steps from the noisy end; the last step taken goes to z_0.

    Args:
        inversion: where the way begins.
        way: see ``WayBack``.
        taken: how many steps, between 1 and those of the inversion.
    """
    table, z = inversion.table, inversion.latents
    last = inversion.steps - taken + 1
    for i in range(inversion.steps, last - 1, -1):
        to = 0 if i == last else i - 1
        source = inversion.noise[i - 1]
        noise = way.noise(z, i, source)
        z = table.denoise_step(z, noise, i, to)
        if to < i - 1:
            # The error of one step with the inversion's noise, against the inverted picture.
            own = table.denoise_step(inversion.trajectory[i], source, i, to)
            z = z + (1.0 - way.strength) * (inversion.trajectory[0] - own)
        z = way.after(to + 1, z, noise)
    return z


@torch.no_grad()
def generate(
    network: NoiseNetwork, latents: Tensor, settings: InversionSettings
) -> InversionResult:
    """Denoises noise to a picture and keeps the path, as an inversion without error.

    Each z_i is a fixed point of its inversion step, since its noise is known.

    Args:
        network: under the prompt.
        latents: z_N, (B, C, H, W), normal noise.
        settings: of the network's schedule, see ``InversionSettings.generated``.

    Raises:
        NonFiniteError: the network returned a value that is not finite.

    Source: FPI, arXiv 2312.12540, whose code edits generated pictures beside photos.
    """
    table = network.table
    z = latents if latents.dtype == torch.float64 else latents.float()
    everyone = torch.arange(z.shape[0], device=z.device)
    trajectory, noises = [z], []
    for i in range(table.steps, 0, -1):
        noise = network(z, i, everyone)
        z = table.denoise_step(z, noise, i)
        trajectory.append(z)
        noises.append(noise)
    shape = (table.steps, z.shape[0])
    every, nothing = torch.ones(shape, dtype=torch.int64), torch.zeros(shape)
    trace = InversionTrace(
        residuals=nothing[:, None],
        inter=torch.full_like(nothing, torch.nan)[:, None],
        bounds=nothing[:, None],
        iterations=every,
        nfe=network.cost * every,
        contraction=torch.full_like(nothing, torch.nan),
        stopped=every.bool(),
        remaining=nothing,
        converged=every.bool(),
    )
    return InversionResult(
        torch.stack(trajectory[::-1]),
        torch.stack(noises[::-1]),
        table,
        trace,
        settings,
    )
