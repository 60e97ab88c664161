"""The ways to invert a photo and to come back: the rows of the benchmark's table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from dehaze.errors import DehazeError
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

# A published solver is given so many iterations a step, and this tolerance.
_ITERATIONS, _TOLERANCE = 5, 1e-6


class InversionEvaluationError(DehazeError, ValueError):
    """A method that cannot be read; the message says what there is."""


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
    options: InversionOptions = field(default_factory=lambda: InversionOptions())
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
    """The name of a row without its limits: rows of one family are one curve of the plot.

    Example:
        >>> family(InversionSettings().changed(solver="anderson", predictor="ife"), "")
        'ife + anderson'
    """
    parts = [] if settings.predictor == "previous" else [settings.predictor]
    parts += [] if settings.relaxation == "none" else [settings.relaxation]
    name = " + ".join([*parts, settings.solver])
    name += "" if settings.criterion == "intra-path" else f", until {settings.criterion}"
    return name + (f", {mode}" if mode else "")


# What may follow a method's name: the setting of each key, and how its value is read.
_READERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "predictor": ("predictor", str),
    "relaxation": ("relaxation", str),
    "criterion": ("criterion", str),
    "iterations": ("max_iterations", int),
    "tolerance": ("tolerance", float),
    "mode": ("mode", str),
}


def parse_inversion_method(text: str) -> InversionMethod:
    """Reads ``best`` or a solver's name, with ``:key=value,key=value`` after it or nothing.

    Raises:
        InversionEvaluationError: a name or a number is wrong; the message lists what there is.

    Example:
        >>> parse_inversion_method("anderson:predictor=ife,iterations=3").options
        {'predictor': 'ife', 'max_iterations': 3}
    """
    name, _, rest = text.partition(":")
    chosen: dict[str, Any] = {}
    for setting in filter(None, rest.split(",")):
        key, _, value = setting.partition("=")
        if key not in _READERS:
            raise InversionEvaluationError(
                f"{text!r}: no setting is named {key!r}; there are {', '.join(_READERS)}"
            )
        field_name, read = _READERS[key]
        try:
            chosen[field_name] = read(value)
        except ValueError as error:
            raise InversionEvaluationError(f"{text!r}: {key} is no number") from error
    _require_names(text, {"solver": name} | chosen)
    mode = chosen.pop("mode", "")
    try:
        InversionSettings().changed(solver=None if name == BEST else name, **chosen)
    except ValueError as error:
        raise InversionEvaluationError(f"{text!r}: {error}") from error
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
            raise InversionEvaluationError(
                f"{text!r}: no {key} is named {chosen[key]!r}; there are {', '.join(known)}"
            )
