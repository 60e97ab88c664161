"""One inversion, from its settings to its result, whatever the method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dehaze.inversion.implicit import StepSettings
from dehaze.inversion.methods import get_method
from dehaze.inversion.result import InversionResult, NoiseNetwork
from dehaze.inversion.schedule import DDIMTable


def best_at_equal_cost(steps: int) -> dict[str, Any]:
    """The settings of ``Inverter`` that reconstruct best for what they cost, by measurement.

    One evaluation a step, from an extrapolated start and with a relaxed update; up to six,
    or ten from 20 steps on, with Anderson acceleration, where that is not enough: at the first
    step, which leaves the clean picture and hardly contracts, and where the relaxed update went so
    far beyond what the network said that the picture would show it. The tolerance, 0.11 N^(-3/2),
    follows the schedule: what a finer one has to gain is lost where its steps are solved no finer.
    See docs/inversion.md.

    Args:
        steps: N.
    """
    return {
        "solver": "anderson",
        "predictor": "extrapolated",
        "relaxation": "spectral",
        "criterion": "reconstruction",
        "max_iterations": max(6, min(10, steps // 2)),
        "tolerance": 0.11 * steps**-1.5,
    }


@dataclass(frozen=True)
class Inverter:
    """Inverts latents along a schedule.

    Attributes:
        table: the schedule.
        network: under the source prompt.
        solver: name of a registered inversion method.
        tolerance: relative, below which an implicit step counts as solved.
        max_iterations: an implicit step's limit.
        criterion: name of a criterion.
        predictor: name of a predictor, which makes the start of an implicit step.
        relaxation: name of a relaxation, which lengthens the updates of an implicit step.
        evaluations: network evaluations that one call of ``network`` costs (2 under guidance).
    """

    table: DDIMTable
    network: NoiseNetwork
    solver: str = "fixed-point"
    tolerance: float = 1e-4
    max_iterations: int = 5
    criterion: str = "intra-path"
    predictor: str = "previous"
    relaxation: str = "none"
    evaluations: int = 1

    def __post_init__(self) -> None:
        get_method(self.solver)
        self._step_settings()

    def _step_settings(self) -> StepSettings:
        return StepSettings(
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
            criterion=self.criterion,
            predictor=self.predictor,
            relaxation=self.relaxation,
        )

    @torch.no_grad()
    def invert(
        self,
        latents: Tensor,
        *,
        depth: int | None = None,
        on_step: Callable[[int], None] = lambda i: None,
    ) -> InversionResult:
        """Inverts z_0 through the steps 1 .. depth.

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
        result = get_method(self.solver).invert(
            self.table,
            self.network,
            latents if latents.dtype == torch.float64 else latents.float(),
            depth,
            on_step,
            self._step_settings(),
        )
        trace = replace(result.trace, nfe=self.evaluations * result.trace.nfe)
        return replace(result, trace=trace)
