"""Runs a solver over the whole schedule and keeps what it found."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dehaze.inversion.criteria import get_criterion
from dehaze.inversion.predictors import get_predictor
from dehaze.inversion.schedule import DDIMTable
from dehaze.inversion.solvers import Solution, get_solver

NetworkFunction = Callable[[Tensor, int, Tensor], Tensor]
"""(latents (b, C, H, W), step i, positions (b,) in the batch) -> network output (b, C, H, W).

A criterion that follows two paths has a batch of 2B: position B + b is the second path of sample b.
"""

# The second path's start is drawn alike in every run: the same photo gives the same inversion.
_SECOND_PATH_SEED = 0

_FORMAT = "dehaze-inversion-1"


class NonFiniteError(ArithmeticError):
    """The network returned a value that is not finite."""


@dataclass(frozen=True)
class InversionTrace:
    """How the solver fared at each of n steps, for each of B samples.

    Attributes:
        residuals: (n, K, B), the intra-path residual at each iteration, NaN where not measured.
        inter: (n, K, B), the inter-path residual likewise; NaN where one path was followed.
        bounds: (n, K, B), Banach's bound of the relative error after each iteration; infinite
            where it says nothing, NaN where not measured.
        iterations: int64 (n, B).
        nfe: int64 (n, B), network evaluations; a guided evaluation counts twice.
        contraction: (n, B), estimate of the contraction constant; NaN where unknown. 1 or above:
            not contractive here.
        converged: bool (n, B).
    """

    residuals: Tensor
    inter: Tensor
    bounds: Tensor
    iterations: Tensor
    nfe: Tensor
    contraction: Tensor
    converged: Tensor

    @property
    def last_residuals(self) -> Tensor:
        """(n, B), the last residual measured at each step; NaN where none was."""
        known = ~self.residuals.isnan()
        last = (known * torch.arange(1, known.shape[1] + 1)[None, :, None]).amax(1) - 1
        values = self.residuals.gather(1, last.clamp(min=0)[:, None])[:, 0]
        return torch.where(last >= 0, values, torch.nan)

    @property
    def worst_residual(self) -> float:
        """The largest last residual of any step and sample; NaN when none was measured."""
        known = self.last_residuals[~self.last_residuals.isnan()]
        return float(known.max()) if known.numel() else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """The trace as plain lists, ready for JSON; None for what is unknown or infinite."""

        def plain(value: Any) -> Any:
            if isinstance(value, list):
                return [plain(item) for item in value]
            return None if isinstance(value, float) and not math.isfinite(value) else value

        return {name: plain(tensor.tolist()) for name, tensor in vars(self).items()}


@dataclass(frozen=True)
class InversionResult:
    """An inverted batch: from here it can be reconstructed exactly, or edited any number of times.

    Attributes:
        trajectory: float32 (n + 1, B, C, H, W): z_0 .. z_n. n < N after a partial inversion.
        noise: float32 (n, B, C, H, W): ``noise[i - 1]`` leads from z_{i-1} to z_i, and back.
        table: the schedule of all N steps.
        trace: how the solver fared.
        attention: what the network's attention layers computed on the way, by name, for
            Prompt-to-Prompt control and for maps; empty when it was not recorded.
    """

    trajectory: Tensor
    noise: Tensor
    table: DDIMTable
    trace: InversionTrace
    attention: dict[str, Tensor] = field(default_factory=dict)

    @property
    def latents(self) -> Tensor:
        """z_n, (B, C, H, W): where denoising starts."""
        return self.trajectory[-1]

    @property
    def steps(self) -> int:
        """n, the number of steps that were inverted."""
        return self.noise.shape[0]

    def save(self, path: str | Path) -> None:
        """Writes everything to one safetensors file."""
        Path(path).write_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        """What ``save`` writes."""
        tensors = {"trajectory": self.trajectory, "noise": self.noise}
        tensors.update({f"trace.{name}": value for name, value in vars(self.trace).items()})
        tensors.update({f"attention.{name}": value for name, value in self.attention.items()})
        on_cpu = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        return save(on_cpu, {"format": _FORMAT, "table": json.dumps(vars(self.table))})

    @classmethod
    def load(cls, path: str | Path) -> InversionResult:
        """Reads what ``save`` wrote.

        Raises:
            ValueError: the file is not a saved inversion.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from error
        if metadata.get("format") != _FORMAT:
            raise ValueError(
                f"{path} is not a saved inversion: write one with InversionResult.save"
            )
        table = json.loads(metadata["table"])

        def under(prefix: str) -> dict[str, Tensor]:
            return {
                name.removeprefix(prefix): value
                for name, value in tensors.items()
                if name.startswith(prefix)
            }

        return cls(
            tensors["trajectory"],
            tensors["noise"],
            DDIMTable(
                tuple(table["timesteps"]), tuple(table["alphas"]), str(table["prediction_type"])
            ),
            InversionTrace(**under("trace.")),
            under("attention."),
        )


@dataclass(frozen=True)
class Inverter:
    """Inverts latents along a schedule, one implicit step after the other.

    Attributes:
        table: the schedule.
        network: returns the network's raw output; the table turns it into noise.
        solver: name of a registered solver.
        tolerance: relative, below which a step counts as solved.
        max_iterations: a step's limit.
        criterion: name of a criterion.
        predictor: name of a predictor, which makes the solver's start.
        evaluations: network evaluations that one call of ``network`` costs (2 under guidance).
    """

    table: DDIMTable
    network: NetworkFunction
    solver: str = "fixed-point"
    tolerance: float = 1e-4
    max_iterations: int = 5
    criterion: str = "intra-path"
    predictor: str = "previous"
    evaluations: int = 1

    def __post_init__(self) -> None:
        get_solver(self.solver)
        get_criterion(self.criterion)
        get_predictor(self.predictor)
        if not self.tolerance > 0:
            raise ValueError(f"tolerance is {self.tolerance}: it must be positive")
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations is {self.max_iterations}: it must be at least 1")

    def invert(
        self,
        latents: Tensor,
        *,
        depth: int | None = None,
        on_step: Callable[[int], None] = lambda i: None,
    ) -> InversionResult:
        """Solves z_i = A_i z_{i-1} + B_i eps(z_i, i) for i = 1 .. depth.

        Args:
            latents: z_0, float (B, C, H, W); kept in float32 or better throughout.
            depth: steps to invert, 1 .. N; all of them when None.
            on_step: called with i after each step.

        Raises:
            ValueError: the depth is out of range.
            NonFiniteError: the network returned a value that is not finite.
        """
        depth = self.table.steps if depth is None else depth
        if not 1 <= depth <= self.table.steps:
            raise ValueError(f"depth is {depth}: it must be 1 to {self.table.steps}")
        solver = get_solver(self.solver)
        criterion = get_criterion(self.criterion)
        predict = get_predictor(self.predictor).predict
        trajectory = [latents if latents.dtype == torch.float64 else latents.float()]
        noise: list[Tensor] = []
        solutions: list[Solution] = []
        for i in range(1, depth + 1):
            previous = trajectory[-1]
            starts = [predict(self.table, i, trajectory, noise)]
            if criterion.paths == 2:
                starts.append(self._noised(trajectory[0], i))
            solution = solver.of_step(i, self.table.steps)(
                self._step_map(previous.repeat(criterion.paths, 1, 1, 1), i),
                torch.cat(starts),
                tolerance=self.tolerance,
                max_iterations=self.max_iterations,
                criterion=criterion,
            )
            noise.append(self.table.noise_of_step(solution.z, previous, i))
            trajectory.append(solution.z)
            solutions.append(solution)
            on_step(i)
        stacked = {
            name: torch.stack([getattr(solution, name) for solution in solutions]).cpu()
            for name in InversionTrace.__dataclass_fields__
        }
        stacked["nfe"] *= self.evaluations
        trace = InversionTrace(**stacked)
        return InversionResult(torch.stack(trajectory), torch.stack(noise), self.table, trace)

    def _noised(self, clean: Tensor, i: int) -> Tensor:
        """sqrt(a_i) z_0 + s_i n, one draw of n for all samples: none depends on its neighbours."""
        generator = torch.Generator().manual_seed(_SECOND_PATH_SEED + i)
        n = torch.randn(clean.shape[1:], generator=generator, dtype=clean.dtype).to(clean.device)
        return math.sqrt(self.table.alphas[i]) * clean + self.table.sigma(i) * n

    def _step_map(self, previous: Tensor, i: int) -> Callable[[Tensor, Tensor], Tensor]:
        """f_i(z) = A_i z_{i-1} + B_i eps(z, i)."""

        def f(z: Tensor, index: Tensor) -> Tensor:
            output = self.network(z, i, index).to(z.dtype)
            require_finite(output, i, self.table)
            noise = self.table.predicted_noise(output, z, i)
            return self.table.inverse_step(previous[index], noise, i)

        return f


def require_finite(output: Tensor, i: int, table: DDIMTable) -> None:
    """Raises ``NonFiniteError`` if the network's output at step i is not finite."""
    if not torch.isfinite(output).all():
        raise NonFiniteError(
            f"the network's output at step {i} (timestep {table.timestep(i)}) is not finite: "
            "run it in float32"
        )
