"""The options of ``ours`` and the ceilings, and how a row of the table overrides them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from dehaze import ranges
from dehaze.eval.methods.base import MethodError
from dehaze.eval.methods.settings import read_settings
from dehaze.models.choice import ModelChoice
from dehaze.ranges import Range
from dehaze.recovery.recover import RECOVERIES


@dataclass(frozen=True)
class PipelineOptions:
    """Options of ``DehazePipeline``; None leaves the model's own default.

    Attributes:
        model: which one, and how it is loaded.
        prompt: the source prompt.
        word: the haze word in it.
        strength: how much of the swap is applied; 1 is all of it.
        mode: what holds a guided way back to the inversion, which is then at guidance 1; see
            ``dehaze.inversion.reconstruction``.
        guidance_scale: classifier-free guidance g, of the way back.
        solver: a registered inversion solver.
        predictor: what the solver starts from.
        criterion: when a step is done.
        steps: DDIM steps.
        spacing: of the timesteps.
        max_iterations: of the solver, a step.
        tolerance: relative residual at which a step has converged.
        null_text: "embedding" or "delete".
        cross_replace_steps: share of the steps with the source's cross-attention maps.
        self_replace_steps: share of the steps with the source's self-attention maps.
        recovery: "physics", "affine" or "none".
        short_side: the model's working size, pixels.
    """

    model: ModelChoice = field(default_factory=ModelChoice)
    prompt: str | None = None
    word: str | None = None
    strength: float = 1.0
    mode: str | None = None
    guidance_scale: float | None = None
    solver: str | None = None
    predictor: str | None = None
    criterion: str | None = None
    steps: int | None = None
    spacing: str | None = None
    max_iterations: int | None = None
    tolerance: float | None = None
    null_text: str | None = None
    cross_replace_steps: float | None = None
    self_replace_steps: float | None = None
    recovery: str = "physics"
    short_side: int | None = None

    def inversion(self) -> dict[str, Any]:
        """The options of the inversion that were given; the model has defaults for the others."""
        chosen = self._given(
            "prompt", "word", "solver", "predictor", "criterion", "spacing", "max_iterations",
            "tolerance",
        )  # fmt: skip
        return chosen if self.steps is None else chosen | {"num_inference_steps": self.steps}

    def guided(self) -> dict[str, Any]:
        """The mode and the guidance of the way back; nothing where neither was given."""
        if self.mode is None and self.guidance_scale is None:
            return {}
        g = 1.0 if self.guidance_scale is None else self.guidance_scale
        return {"mode": self.mode or "plain", "guidance_scale": g}

    def swap(self) -> dict[str, Any]:
        """The options of the way back that were given, apart from the strength."""
        return self._given("null_text", "cross_replace_steps", "self_replace_steps", "recovery")

    def _given(self, *names: str) -> dict[str, Any]:
        chosen = {name: getattr(self, name) for name in names}
        return {name: value for name, value in chosen.items() if value is not None}


def _solver(value: str) -> str:
    from dehaze.inversion import SOLVERS

    return _one_of(value, SOLVERS.names())


def _predictor(value: str) -> str:
    from dehaze.inversion import PREDICTORS

    return _one_of(value, PREDICTORS.names())


def _criterion(value: str) -> str:
    from dehaze.inversion import CRITERIA

    return _one_of(value, CRITERIA.names())


def _mode(value: str) -> str:
    from dehaze.inversion.reconstruction import mode_names

    return _one_of(value, mode_names())


def _recovery(value: str) -> str:
    return _one_of(value, RECOVERIES.names())


def _spacing(value: str) -> str:
    from dehaze.inversion.spacings import SPACINGS

    return _one_of(value, SPACINGS.names())


def _null_text(value: str) -> str:
    from dehaze.pipelines.dehazing import NULL_TEXTS

    return _one_of(value, NULL_TEXTS.names())


def _one_of(value: str, names: Iterable[str]) -> str:
    if value not in names:
        raise MethodError(f"{value!r} is not one of {', '.join(names)}")
    return value


def _within(allowed: Range) -> Callable[[str], float]:
    return lambda value: allowed.check(float(value))


def _count(name: str) -> Callable[[str], int]:
    return lambda value: ranges.check_count(name, int(value))


# Options that a row may override. A prompt holds spaces and commas, and is common to a run.
_OVERRIDES: dict[str, Callable[[str], Any]] = {
    "model": str,
    "strength": _within(ranges.STRENGTH),
    "mode": _mode,
    "guidance_scale": _within(ranges.GUIDANCE_SCALE),
    "solver": _solver,
    "predictor": _predictor,
    "criterion": _criterion,
    "steps": _count("steps"),
    "spacing": _spacing,
    "max_iterations": _count("max_iterations"),
    "tolerance": _within(ranges.TOLERANCE),
    "null_text": _null_text,
    "cross_replace_steps": _within(ranges.SHARE),
    "self_replace_steps": _within(ranges.SHARE),
    "recovery": _recovery,
    "short_side": _count("short_side"),
}


def override(options: PipelineOptions, argument: str) -> PipelineOptions:
    """The options, with those replaced that ``key=value,key=value`` names.

    Raises:
        MethodError: an unknown key, or a value that does not fit it.
    """
    changes = read_settings(argument, _OVERRIDES)
    if "model" in changes:
        changes["model"] = replace(options.model, model=changes["model"])
    changed = replace(options, **changes)
    if "mode" in changes:
        _check_mode(argument, changed)
    return changed


def _check_mode(argument: str, options: PipelineOptions) -> None:
    from dehaze.inversion.reconstruction import check_mode, check_solver, holds

    try:
        check_mode(options.mode, options.guided()["guidance_scale"])
        if holds(options.mode) and options.solver is not None:
            check_solver(options.solver)
    except ValueError as error:
        raise MethodError(f"{argument!r}: {error}") from error
