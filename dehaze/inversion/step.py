"""One implicit step of an inversion, from its settings to its solution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dehaze.inversion.criteria import CRITERIA, relative_residual
from dehaze.inversion.noise_network import NoiseNetwork
from dehaze.inversion.predictors import PREDICTORS, neighbour_estimate
from dehaze.inversion.relaxation import RELAXATIONS
from dehaze.inversion.renoise import regularised
from dehaze.inversion.result import InversionResult
from dehaze.inversion.schedule import StepTable
from dehaze.inversion.settings import InversionSettings
from dehaze.inversion.solvers import SOLVERS, ImplicitStep, Sampler, Solution, Unregularised

# The second path starts from the same draw in every run, so that an inversion can be repeated.
_SECOND_PATH_SEED = 0
_REFERENCE_SEED = 0


@dataclass(frozen=True)
class StepMap:
    """f_i(z) = A_i z_{i-1} + B_i p(z, i), for latents z at these positions in the batch.

    Attributes:
        network: gives p.
        i: the step.
        previous: z_{i-1}, (B, C, H, W).
    """

    network: NoiseNetwork
    i: int
    previous: Tensor

    def __call__(self, z: Tensor, index: Tensor) -> Tensor:
        # Position B + b is the second path of sample b.
        before = self.previous[index % self.previous.shape[0]]
        return self.network.table.inverse_step(before, self.network(z, self.i, index), self.i)


@dataclass(frozen=True)
class NoiseRegulariser:
    """ReNoise's regularisation of the noise that step i predicts.

    Attributes:
        table: the schedule.
        i: the step.
        previous: z_{i-1}, (B, C, H, W).
        reference: the noise predicted at sqrt(a_i) z_0 + s_i n, n the same at every step.
        generator: of the shifts, see ``dehaze.inversion.renoise``.
    """

    table: StepTable
    i: int
    previous: Tensor
    reference: Tensor
    generator: torch.Generator
    evaluations: int = 1

    @classmethod
    def of_step(
        cls, network: NoiseNetwork, i: int, trajectory: Sequence[Tensor]
    ) -> NoiseRegulariser:
        """The regulariser of step i, after z_0 .. z_{i-1}, (B, C, H, W) each."""
        clean = trajectory[0]
        noise = network(
            noised(network.table, clean, i, seed=_REFERENCE_SEED),
            i,
            torch.arange(clean.shape[0], device=clean.device),
        )
        generator = torch.Generator().manual_seed(i)
        return cls(network.table, i, trajectory[-1], noise, generator)

    def __call__(self, mapped: Tensor) -> Tensor:
        noise = self.table.noise_of_step(mapped, self.previous, self.i)
        changed = regularised(noise, self.reference, self.generator)
        return self.table.inverse_step(self.previous, changed, self.i)


def solve_step(
    network: NoiseNetwork,
    i: int,
    trajectory: Sequence[Tensor],
    noise: Sequence[Tensor],
    settings: InversionSettings,
    start: InversionResult | None = None,
) -> Solution:
    """The solution of one implicit step.

    Args:
        network: under the source prompt.
        i: the step.
        trajectory: z_0 .. z_{i-1}, (B, C, H, W) each.
        noise: eps_1 .. eps_{i-1}, which led there.
        settings: how.
        start: see ``invert``.

    Raises:
        ValueError: a setting is unknown, or the solver has no implicit steps.
    """
    table, clean = network.table, trajectory[0]
    criterion = CRITERIA.get(settings.criterion)
    solver = SOLVERS.get(settings.solver)
    if isinstance(solver, Sampler):
        raise ValueError(f"{settings.solver} has no implicit steps to solve")
    if start is None:
        starts = [PREDICTORS.get(settings.predictor).predict(table, i, trajectory, noise)]
    else:
        starts = [
            neighbour_estimate(table, i, trajectory, start.trajectory.unbind(), start.noise[i - 1])
        ]
    if criterion.paths == 2:
        starts.append(noised(table, clean, i, seed=_SECOND_PATH_SEED + i))
    step = ImplicitStep(
        StepMap(network, i, trajectory[-1]),
        torch.cat(starts),
        criterion,
        settings.tolerance,
        settings.max_iterations,
        RELAXATIONS.get(settings.relaxation).of_step(table, i, clean.shape),
        table.timestep(i),
        NoiseRegulariser.of_step(network, i, trajectory) if solver.regularises else Unregularised(),
    )
    solution = solver.solve_step(step, i, table.steps)
    if not settings.checked:
        return solution
    everyone = torch.arange(clean.shape[0], device=clean.device)
    remaining = relative_residual(solution.z, step.f(solution.z, everyone))
    return replace(solution, remaining=remaining)


def noised(table: StepTable, clean: Tensor, i: int, *, seed: int) -> Tensor:
    """z_0 with the noise of step i: one draw for all samples, so that none depends on others."""
    generator = torch.Generator().manual_seed(seed)
    n = torch.randn(clean.shape[1:], generator=generator, dtype=clean.dtype).to(clean.device)
    return table.noised(clean, n, i)
