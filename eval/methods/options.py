"""What ``ours`` and the ceilings run with, and how a row of the table overrides it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from dehaze import ranges
from dehaze.eval.methods.base import MethodError
from dehaze.models.choice import ModelChoice
from dehaze.ranges import Range, RangeError
from dehaze.recovery.recover import RECOVERIES


@dataclass(frozen=True)
class PipelineOptions:
    """Options of ``DehazePipeline``; None leaves the model's own default.

    Attributes:
        model: which one, and how it is loaded.
        prompt: the source prompt.
        word: the haze word in it.
        strength: how much of the swap is applied; 1 is all of it.
        solver: a registered inversion solver.
        steps: DDIM steps.
        spacing: of the timesteps.
        max_iterations: of the solver, a step.
        tolerance: relative residual at which a step has converged.
        null_text: "embedding" or "delete".
        cross_replace_steps: share of the steps with the source's cross-attention maps.
        self_replace_steps: share of the steps with the source's self-attention maps.
        recovery: "calibrated", "physics", "affine" or "none".
        short_side: the model's working size, pixels.
    """

    model: ModelChoice = field(default_factory=ModelChoice)
    prompt: str | None = None
    word: str | None = None
    strength: float = 1.0
    solver: str | None = None
    steps: int | None = None
    spacing: str | None = None
    max_iterations: int | None = None
    tolerance: float | None = None
    null_text: str | None = None
    cross_replace_steps: float | None = None
    self_replace_steps: float | None = None
    recovery: str = "calibrated"
    short_side: int | None = None

    def inversion(self) -> dict[str, Any]:
        """The options of the inversion that were given; the model has its defaults for others."""
        chosen = self._given("prompt", "word", "solver", "spacing", "max_iterations", "tolerance")
        return chosen if self.steps is None else chosen | {"num_inference_steps": self.steps}

    def swap(self) -> dict[str, Any]:
        """The options of the way back that were given, apart from the strength."""
        return self._given("null_text", "cross_replace_steps", "self_replace_steps", "recovery")

    def _given(self, *names: str) -> dict[str, Any]:
        chosen = {name: getattr(self, name) for name in names}
        return {name: value for name, value in chosen.items() if value is not None}


def _solver(value: str) -> str:
    from dehaze.inversion import SOLVERS

    return _one_of(value, SOLVERS.names())


def _recovery(value: str) -> str:
    return _one_of(value, RECOVERIES.names())


def _spacing(value: str) -> str:
    from dehaze.inversion.schedule import SPACINGS

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


def _count(value: str) -> int:
    if int(value) < 1:
        raise MethodError(f"{value} is not a number of 1 or more")
    return int(value)


# What a row may override; a prompt holds spaces and commas and is common to a run.
_OVERRIDES: dict[str, Callable[[str], Any]] = {
    "model": str,
    "strength": _within(ranges.STRENGTH),
    "solver": _solver,
    "steps": _count,
    "spacing": _spacing,
    "max_iterations": _count,
    "tolerance": _within(ranges.TOLERANCE),
    "null_text": _null_text,
    "cross_replace_steps": _within(ranges.SHARE),
    "self_replace_steps": _within(ranges.SHARE),
    "recovery": _recovery,
    "short_side": _count,
}


def override(options: PipelineOptions, argument: str) -> PipelineOptions:
    """The options with those replaced that ``key=value,key=value`` names.

    Raises:
        MethodError: an unknown key, or a value that does not fit it.
    """
    changes: dict[str, Any] = {}
    for part in filter(None, argument.split(",")):
        key, separator, value = part.partition("=")
        if not separator or key not in _OVERRIDES:
            known = ", ".join(_OVERRIDES)
            raise MethodError(f"{part!r} is no option; there are {known}, each as key=value")
        try:
            changes[key] = _OVERRIDES[key](value)
        except RangeError as error:
            raise MethodError(f"{part!r}: {error}") from error
        except ValueError as error:
            raise MethodError(f"{part!r} is no number") from error
    if "model" in changes:
        changes["model"] = replace(options.model, model=changes["model"])
    return replace(options, **changes)
