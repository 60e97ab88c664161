"""One inversion, from its settings to its result: DDIM's implicit steps, one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dehaze.inversion.criteria import CRITERIA, relative_residual
from dehaze.inversion.predictors import PREDICTORS, neighbour_estimate
from dehaze.inversion.relaxation import RELAXATIONS, Relaxation
from dehaze.inversion.renoise import regularised
from dehaze.inversion.result import (
    InversionResult,
    InversionSettings,
    InversionTrace,
    NoiseNetwork,
)
from dehaze.inversion.schedule import Process, ScheduleError, StepTable
from dehaze.inversion.solvers import (
    SOLVERS,
    ImplicitStep,
    Sampler,
    Solution,
    Solver,
    Unregularised,
    idle_settings,
)
from dehaze.registry import Registry

# The second path starts from the same draw in every run: a photo's inversion can be repeated.
_SECOND_PATH_SEED = 0
_REFERENCE_SEED = 0


def best_at_equal_cost(steps: int) -> InversionSettings:
    """The settings that reconstruct best for their cost with the bundled network.

    They were fitted on that network. A step starts from an extrapolation and takes one evaluation
    with a relaxed update. Where that is not enough, Anderson acceleration goes on, for at most six
    evaluations, or ten from 20 steps on. It is not enough at the first step, which starts from the
    clean picture and hardly contracts, and where the relaxation added an error that the picture
    would show. The tolerance is 0.15 N^(-3/2). Whether a step has converged is known only with
    ``checked``.

    Args:
        steps: N.
    """
    return InversionSettings(
        steps=steps,
        spacing=None,
        solver="anderson",
        predictor="extrapolated",
        relaxation="spectral",
        criterion="reconstruction",
        max_iterations=max(6, min(10, steps // 2)),
        tolerance=0.15 * steps**-1.5,
    )


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
        start: the inversion of pictures nearly the same, under the same schedule, that each step
            starts from instead of the predictor's guess. A solver of published steps that iterates
            nothing, such as ``ddim``, would no longer be what was published.
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

    ReNoise's regularisation takes a predicted noise, and ``spectral`` was fitted on DDIM: a flow
    takes neither. RF-Solver and RF-Inversion are for flows alone.

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


@dataclass(frozen=True)
class StepMap:
    """f_i(z) = A_i z_{i-1} + B_i p(z, i), of latents and their positions in the batch.

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
        """That of step i, after z_0 .. z_{i-1}, (B, C, H, W) each."""
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
    criterion = CRITERIA.get(settings.criterion).of_step(table, i, clean)
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


def noised(table: StepTable, clean: Tensor, i: int, *, seed: int) -> Tensor:
    """z_0 with the noise n of step i, one draw for all samples: none depends on its neighbours."""
    generator = torch.Generator().manual_seed(seed)
    n = torch.randn(clean.shape[1:], generator=generator, dtype=clean.dtype).to(clean.device)
    return table.noised(clean, n, i)


@dataclass(frozen=True)
class Adjustment:
    """A registered way to bring a picture nearer to its prompt before it is inverted.

    Attributes:
        move: from a network under the prompt, z_0 and a seed to another z_0.
        source: where it was published.
    """

    move: Callable[[NoiseNetwork, Tensor, int], Tensor]
    source: str


_NOISING_STEPS = 2


def noise_and_denoise(network: NoiseNetwork, latents: Tensor, seed: int) -> Tensor:
    """Two noising steps and two denoising steps with the prompt; nothing is drawn.

    Noising is plain DDIM inversion, z_i = A_i z_{i-1} + B_i eps(z_{i-1}, i), denoising DDIM: what
    the two do not agree on is what the prompt and the picture do not agree on.

    Raises:
        ValueError: the schedule has fewer steps.

    Source: the text of FPI, arXiv 2312.12540, section 3.3.
    """
    table, z = network.table, latents
    if table.steps < _NOISING_STEPS:
        raise ValueError(
            f"the adjustment takes {_NOISING_STEPS} steps and the schedule has {table.steps}"
        )
    everyone = torch.arange(z.shape[0], device=z.device)
    for i in range(1, _NOISING_STEPS + 1):
        z = table.inverse_step(z, network(z, i, everyone), i)
    for i in range(_NOISING_STEPS, 0, -1):
        z = table.denoise_step(z, network(z, i, everyone), i)
    return z


_IMG2IMG_STRENGTH = 0.05


def image_to_image(network: NoiseNetwork, latents: Tensor, seed: int) -> Tensor:
    """Image-to-image at strength .05: random noise, then DDIM under the prompt.

    Of N steps int(.05 N) are run, from sqrt(a_i) z_0 + s_i n, as diffusers' img2img does. The
    published code takes N = 50, the inversion's guidance, and a z_0 drawn from the encoder's
    posterior; here z_0 is the posterior's mode, as everywhere.

    Raises:
        ValueError: the schedule has so few steps that none would be run.

    Source: main.py in the published code of FPI, arXiv 2312.12540; SDEdit, arXiv 2108.01073.
    """
    table = network.table
    last = int(table.steps * _IMG2IMG_STRENGTH)
    if last < 1:
        raise ValueError(
            f"img2img at strength {_IMG2IMG_STRENGTH} runs none of {table.steps} steps: take "
            f"{math.ceil(1.0 / _IMG2IMG_STRENGTH)} or more"
        )
    everyone = torch.arange(latents.shape[0], device=latents.device)
    z = noised(table, latents, last, seed=seed)
    for i in range(last, 0, -1):
        z = table.denoise_step(z, network(z, i, everyone), i)
    return z


ADJUSTMENTS: Registry[Adjustment] = Registry("adjustment")
ADJUSTMENTS.register(
    "noise-denoise", Adjustment(noise_and_denoise, "the text of FPI, arXiv 2312.12540, section 3.3")
)
ADJUSTMENTS.register(
    "img2img", Adjustment(image_to_image, "the code of FPI, arXiv 2312.12540, main.py")
)


@torch.no_grad()
def adjust(
    name: str, network: NoiseNetwork, latents: Tensor, *, repeats: int = 1
) -> tuple[Tensor, Tensor]:
    """Brings a picture nearer to its prompt, which changes it.

    An exact inversion of the new picture does not bring the old one back.

    Args:
        name: of a registered adjustment.
        network: under the prompt, at the inversion's guidance.
        latents: z_0, float (B, C, H, W).
        repeats: how often.

    Returns:
        z_0 to invert instead, and (B,), the norm of the change over that of the old z_0.

    Raises:
        ValueError: there is no such adjustment, or the schedule has too few steps for it.
        NonFiniteError: the network returned a value that is not finite.
    """
    adjustment = ADJUSTMENTS.get(name)
    adjusted = latents
    for repeat in range(repeats):
        adjusted = adjustment.move(network, adjusted, repeat)
    change = (adjusted - latents).flatten(1).norm(dim=1)
    return adjusted, change / latents.flatten(1).norm(dim=1).clamp(min=1e-12)
