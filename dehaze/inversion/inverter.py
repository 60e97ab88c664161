"""One inversion, from its settings to its result: implicit steps, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dehaze.inversion.criteria import CRITERIA
from dehaze.inversion.noise_network import NoiseNetwork
from dehaze.inversion.relaxation import RELAXATIONS, Relaxation
from dehaze.inversion.result import InversionResult
from dehaze.inversion.schedule import Process, ScheduleError, StepTable
from dehaze.inversion.settings import InversionSettings
from dehaze.inversion.solvers import (
    SOLVERS,
    Sampler,
    Solution,
    Solver,
    idle_settings,
)
from dehaze.inversion.step import solve_step
from dehaze.inversion.trace import InversionTrace
from dehaze.registry import Registry


@torch.no_grad()
def invert(
    network: NoiseNetwork,
    latents: Tensor,
    settings: InversionSettings,
    *,
    start: InversionResult | None = None,
    on_step: Callable[[int], None] = lambda i: None,
) -> InversionResult:
    """Inverts z_0 through the steps 1 .. ``settings.inverted_steps``.

    The adjustment is not made here, see ``adjust``.

    Args:
        network: under the source prompt; its schedule has ``settings.steps`` steps.
        latents: z_0, float (B, C, H, W); kept in float32 or better throughout.
        settings: how.
        start: an inversion of nearly the same pictures under the same schedule; each step starts
            from it instead of the predictor's guess. Refused for a solver that does not iterate,
            such as ``ddim``: it would no longer be the published one.
        on_step: called with i after each step.

    Raises:
        ValueError: a setting is unknown or for another process, see ``check_served``; the
            network's schedule has another number of steps; or ``start`` is of another schedule or
            shape, or has no steps to solve.
        NonFiniteError: the network returned a value that is not finite.
    """
    check_served(network.table.process, settings)
    if settings.steps != network.table.steps:
        raise ValueError(
            f"the settings are of {settings.steps} steps, the network's schedule of "
            f"{network.table.steps}"
        )
    z = latents if latents.dtype == torch.float64 else latents.float()
    solver = SOLVERS.get(settings.solver)
    if start is not None:
        _check_start(start, network.table, z, settings)
    if isinstance(solver, Sampler):
        result = solver.invert(network, z, settings.inverted_steps, on_step)
        return replace(result, settings=settings)
    trajectory, noise = [z], list[Tensor]()
    solutions: list[Solution] = []
    for i in range(1, settings.inverted_steps + 1):
        solution = solve_step(network, i, trajectory, noise, settings, start)
        noise.append(network.table.noise_of_step(solution.z, trajectory[-1], i))
        trajectory.append(solution.z)
        solutions.append(solution)
        on_step(i)
    return InversionResult(
        torch.stack(trajectory),
        torch.stack(noise),
        network.table,
        trace_of(solutions, network, settings),
        settings,
    )


def check_served(process: Process, settings: InversionSettings) -> None:
    """Refuses a solver or relaxation that is made for another process than the model's.

    ReNoise's regularisation needs a predicted noise, and ``fitted`` was fitted on DDIM, so a flow
    takes neither. RF-Solver, FireFlow and RF-Inversion are for flows alone.

    Raises:
        UnknownNameError: there is no such setting.
        ScheduleError: the message names the setting and lists what there is.
    """
    registries: dict[str, Registry[Solver | Sampler] | Registry[Relaxation]] = {
        "solver": SOLVERS,
        "relaxation": RELAXATIONS,
    }
    for kind, registry in registries.items():
        name = getattr(settings, kind)
        registry.get(name)
        served = [known for known in registry.names() if _serves(registry.get(known), process)]
        if name not in served:
            raise ScheduleError(
                f"the {kind} {name} is not made for a model of {_PROCESSES[process]}: there are "
                f"{', '.join(served)}"
            )


_PROCESSES = {"ddim": "DDIM's process", "flow": "flow matching"}


def _serves(entry: Solver | Sampler | Relaxation, process: Process) -> bool:
    return entry.process in (None, process)


def _check_start(
    start: InversionResult, table: StepTable, latents: Tensor, settings: InversionSettings
) -> None:
    if "max_iterations" in idle_settings(settings.solver):
        raise ValueError(f"{settings.solver} iterates nothing: leave the start out")
    if start.table != table or start.steps < settings.inverted_steps:
        raise ValueError("the start is an inversion along another schedule")
    if start.trajectory.shape[1:] != latents.shape:
        raise ValueError(
            f"the start's latents are {tuple(start.trajectory.shape[1:])} and the picture's "
            f"{tuple(latents.shape)}"
        )


def trace_of(
    solutions: Sequence[Solution], network: NoiseNetwork, settings: InversionSettings
) -> InversionTrace:
    """How the solver fared at the steps of these solutions."""
    found = {
        name: torch.stack([getattr(solution, name) for solution in solutions]).cpu()
        for name in Solution.__dataclass_fields__
        if name != "z"
    }
    paths = CRITERIA.get(settings.criterion).paths
    evaluations = paths * found["iterations"] + int(settings.checked)
    return InversionTrace(
        nfe=network.cost * evaluations,
        converged=found["remaining"] < settings.tolerance,
        **found,
    )
