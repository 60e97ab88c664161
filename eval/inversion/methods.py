"""The rows of the benchmark's table: ways to invert a photo and to come back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from dehaze.eval.methods.base import MethodError
from dehaze.eval.methods.settings import read_settings
from dehaze.inversion import (
    CRITERIA,
    PREDICTORS,
    RELAXATIONS,
    SOLVERS,
    InversionOptions,
    InversionSettings,
)
from dehaze.inversion.reconstruction import check_mode, check_solver, holds, mode_names
from dehaze.models.needs import ModelDescription

BEST = "best"
"""The name of a model's own ``reconstructing`` settings."""

# Iterations a step, and tolerance, of a published solver.
_ITERATIONS, _TOLERANCE = 5, 1e-6


@dataclass(frozen=True)
class InversionMethod:
    """A row of the table.

    Attributes:
        name: ``BEST``, or a solver of ``dehaze.inversion.SOLVERS``, which then runs as it was
            published, for at most five iterations a step and to a tolerance of 1e-6.
        options: settings that replace those.
        mode: a reconstruction mode, or ``plain``: the inversion is at guidance 1 and the way back
            alone is guided. Empty for guidance on both ways.
    """

    name: str
    options: InversionOptions = field(default_factory=InversionOptions)
    mode: str = ""

    def settings(
        self, description: ModelDescription, *, steps: int, guidance_scale: float
    ) -> InversionSettings:
        """How a model inverts a photo for this row, in N steps and at guidance g.

        Raises:
            ValueError: the mode has nothing to hold at this guidance, or the solver inverts along
                another trajectory than the mode holds.
        """
        g = 1.0 if self.mode else guidance_scale
        if self.name == BEST:
            base = description.reconstructing(steps)
        else:
            named = description.inversion.changed(steps=steps, solver=self.name)
            base = replace(named, max_iterations=_ITERATIONS, tolerance=_TOLERANCE)
        settings = base.changed(guidance_scale=g, **self.options)
        if holds(self.mode or None):
            check_solver(settings.solver)
            check_mode(self.mode, guidance_scale)
        return settings


def family(settings: InversionSettings, mode: str) -> str:
    """The name of a row without its limits; rows of one family are one curve of the plot.

    Example:
        >>> family(InversionSettings().changed(solver="anderson", predictor="ife"), "")
        'ife + anderson'
    """
    parts = [] if settings.predictor == "previous" else [settings.predictor]
    parts += [] if settings.relaxation == "none" else [settings.relaxation]
    name = " + ".join([*parts, settings.solver])
    name += "" if settings.criterion == "intra-path" else f", until {settings.criterion}"
    return name + (f", {mode}" if mode else "")


# Keys that may follow a method's name, and how their values are read.
_READERS: dict[str, Callable[[str], Any]] = {
    "predictor": str,
    "relaxation": str,
    "criterion": str,
    "iterations": int,
    "tolerance": float,
    "mode": str,
}


def parse_inversion_method(text: str) -> InversionMethod:
    """Reads ``best`` or a solver's name, with ``:key=value,key=value`` after it or nothing.

    Raises:
        MethodError: a name or a number is wrong; the message lists what there is.

    Example:
        >>> parse_inversion_method("anderson:predictor=ife,iterations=3").options
        {'predictor': 'ife', 'max_iterations': 3}
    """
    name, _, rest = text.partition(":")
    chosen = read_settings(rest, _READERS)
    if "iterations" in chosen:
        chosen["max_iterations"] = chosen.pop("iterations")
    _require_names(text, {"solver": name} | chosen)
    mode = chosen.pop("mode", "")
    try:
        InversionSettings().changed(solver=None if name == BEST else name, **chosen)
    except ValueError as error:
        raise MethodError(f"{text!r}: {error}") from error
    return InversionMethod(name, InversionOptions(**chosen), mode)  # type: ignore[typeddict-item]


def _require_names(text: str, chosen: dict[str, Any]) -> None:
    names = {
        "solver": [BEST, *SOLVERS.names()],
        "predictor": PREDICTORS.names(),
        "relaxation": RELAXATIONS.names(),
        "criterion": CRITERIA.names(),
        "mode": mode_names(),
    }
    for key, known in names.items():
        if chosen.get(key, known[0]) not in known:
            raise MethodError(
                f"{text!r}: no {key} is named {chosen[key]!r}; there are {', '.join(known)}"
            )
