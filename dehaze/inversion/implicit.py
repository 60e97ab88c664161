"""Inversion along DDIM's own trajectory: one implicit step after the other, and DDIM back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dehaze.inversion.criteria import get_criterion
from dehaze.inversion.predictors import get_predictor
from dehaze.inversion.relaxation import get_relaxation
from dehaze.inversion.result import (
    AfterStep,
    BlendedNoise,
    InversionResult,
    InversionTrace,
    NoiseNetwork,
)
from dehaze.inversion.schedule import DDIMTable
from dehaze.inversion.solvers import Solution, get_solver

# The second path's start is drawn alike in every run: the same photo gives the same inversion.
_SECOND_PATH_SEED = 0


@dataclass(frozen=True)
class StepSettings:
    """How an implicit step is solved.

    Attributes:
        tolerance: relative, below which a step counts as solved.
        max_iterations: a step's limit.
        criterion: name of a criterion.
        predictor: name of a predictor, which makes the solver's start.
        relaxation: name of a relaxation, which lengthens the solver's updates.
    """

    tolerance: float
    max_iterations: int
    criterion: str
    predictor: str
    relaxation: str

    def __post_init__(self) -> None:
        get_criterion(self.criterion)
        get_predictor(self.predictor)
        get_relaxation(self.relaxation)
        if not self.tolerance > 0:
            raise ValueError(f"tolerance is {self.tolerance}: it must be positive")
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations is {self.max_iterations}: it must be at least 1")


def implicit_invert(
    table: DDIMTable,
    network: NoiseNetwork,
    latents: Tensor,
    depth: int,
    on_step: Callable[[int], None],
    settings: StepSettings,
    *,
    solver: str,
) -> InversionResult:
    """Solves z_i = A_i z_{i-1} + B_i eps(z_i, i) for i = 1 .. depth.

    Args:
        table: the schedule.
        network: under the source prompt.
        latents: z_0, (B, C, H, W).
        depth: steps to invert.
        on_step: called with i after each step.
        settings: of every step.
        solver: name of a registered solver.
    """
    trajectory = [latents]
    noise: list[Tensor] = []
    solutions: list[Solution] = []
    for i in range(1, depth + 1):
        solution = _solve_step(table, network, i, trajectory, noise, settings, solver)
        noise.append(table.noise_of_step(solution.z, trajectory[-1], i))
        trajectory.append(solution.z)
        solutions.append(solution)
        on_step(i)
    return InversionResult(
        torch.stack(trajectory),
        torch.stack(noise),
        table,
        _trace(solutions),
        method=solver,
    )


@torch.no_grad()
def solve_steps(
    inversion: InversionResult, network: NoiseNetwork, settings: StepSettings, *, solver: str
) -> tuple[Tensor, InversionTrace]:
    """Each step of an inversion solved anew, from the z_{i-1} that the inversion has there.

    Errors of a step do not reach the next one: how a solver, a criterion or a bound fares is seen
    at every step by itself.

    Args:
        inversion: along DDIM's trajectory.
        network: under the inversion's prompt.
        settings: of every step.
        solver: name of a registered solver.

    Returns:
        (n, B, C, H, W), the solutions of the steps 1 .. n, and how the solver fared.
    """
    solutions = [
        _solve_step(
            inversion.table,
            network,
            i,
            list(inversion.trajectory[:i]),
            list(inversion.noise[: i - 1]),
            settings,
            solver,
        )
        for i in range(1, inversion.steps + 1)
    ]
    return torch.stack([solution.z for solution in solutions]), _trace(solutions)


def _solve_step(
    table: DDIMTable,
    network: NoiseNetwork,
    i: int,
    trajectory: Sequence[Tensor],
    noise: Sequence[Tensor],
    settings: StepSettings,
    solver: str,
) -> Solution:
    """z_i of z_0 .. z_{i-1} and the noises that led there."""
    previous, clean = trajectory[-1], trajectory[0]
    criterion = get_criterion(settings.criterion).of_step(table, i, clean)
    starts = [get_predictor(settings.predictor).predict(table, i, trajectory, noise)]
    if criterion.paths == 2:
        starts.append(noised(table, clean, i, seed=_SECOND_PATH_SEED + i))
    return get_solver(solver).of_step(i, table.steps)(
        step_map(table, network, previous.repeat(criterion.paths, 1, 1, 1), i),
        torch.cat(starts),
        tolerance=settings.tolerance,
        max_iterations=settings.max_iterations,
        criterion=criterion,
        relaxation=get_relaxation(settings.relaxation).lengthen(table, i, clean.shape),
    )


def _trace(solutions: Sequence[Solution]) -> InversionTrace:
    stacked = {
        name: torch.stack([getattr(solution, name) for solution in solutions]).cpu()
        for name in InversionTrace.__dataclass_fields__
    }
    return InversionTrace(**stacked)


def noised(table: DDIMTable, clean: Tensor, i: int, *, seed: int) -> Tensor:
    """sqrt(a_i) z_0 + s_i n, one draw of n for all samples: none depends on its neighbours."""
    generator = torch.Generator().manual_seed(seed)
    n = torch.randn(clean.shape[1:], generator=generator, dtype=clean.dtype).to(clean.device)
    return math.sqrt(table.alphas[i]) * clean + table.sigma(i) * n


@torch.no_grad()
def picard_paths(
    inversion: InversionResult, network: NoiseNetwork, i: int, *, starts: int, iterations: int
) -> Tensor:
    """Where Picard iteration goes at step i from several starts: to one point, if f contracts.

    The first start is z_{i-1}, the others are z_0 under as many draws of noise.

    Args:
        inversion: of one sample, along DDIM's trajectory.
        network: under the inversion's prompt.
        i: the step, 1 .. n.
        starts: how many.
        iterations: applications of f.

    Returns:
        (iterations + 1, starts, C, H, W), the start first.
    """
    table, previous = inversion.table, inversion.trajectory[i - 1]
    clean = inversion.trajectory[0]
    others = [noised(table, clean, i, seed=seed) for seed in range(1, starts)]
    path = [torch.cat([previous, *others])]
    f = step_map(table, network, previous, i)
    # Every start is a path of the one sample.
    sample = torch.zeros(starts, dtype=torch.int64, device=previous.device)
    for _ in range(iterations):
        path.append(f(path[-1], sample))
    return torch.stack(path)


def step_map(
    table: DDIMTable, network: NoiseNetwork, previous: Tensor, i: int
) -> Callable[[Tensor, Tensor], Tensor]:
    """f_i(z) = A_i z_{i-1} + B_i eps(z, i), as a function of z and positions in the batch."""

    def f(z: Tensor, index: Tensor) -> Tensor:
        return table.inverse_step(previous[index], network(z, i, index), i)

    return f


def ddim_denoise(
    inversion: InversionResult, noise_at: BlendedNoise, after_step: AfterStep
) -> Tensor:
    """z_{i-1} = (z_i - B_i eps) / A_i from n down, eps at z_i; see ``dehaze.inversion.denoise``."""
    z = inversion.latents
    for i in range(inversion.steps, 0, -1):
        noise = noise_at(z, i, inversion.noise[i - 1])
        z = after_step(i, inversion.table.denoise_step(z, noise, i), noise)
    return z
