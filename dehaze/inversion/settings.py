"""How a photo is inverted: every setting, its range and its default."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from typing_extensions import TypedDict, Unpack

from dehaze import ranges
from dehaze.errors import DehazeError
from dehaze.inversion.criteria import CRITERIA
from dehaze.inversion.solvers import idle_settings


class SettingError(DehazeError, ValueError):
    """A setting that is given has no effect beside the others."""


class InversionOptions(TypedDict, total=False):
    """Settings of an inversion as keywords; None, or no keyword, for the model's own."""

    spacing: str | None
    solver: str | None
    predictor: str | None
    relaxation: str | None
    criterion: str | None
    max_iterations: int | None
    tolerance: float | None
    depth: int | None
    adjustment: str | None
    adjustment_repeats: int | None
    checked: bool | None


@dataclass(frozen=True)
class InversionSettings:
    """How a photo is inverted.

    The defaults are fitted to no network. A step has converged where its residual, evaluated at the
    latent that is returned, is below the tolerance. Where it has not, the trace says so.

    Attributes:
        steps: N, DDIM steps.
        spacing: of the timesteps, see ``dehaze.inversion.spacings.SPACINGS``; None for the
            scheduler's own.
        solver: see ``dehaze.inversion.SOLVERS``.
        predictor: makes the solver's start, see ``dehaze.inversion.PREDICTORS``.
        relaxation: lengthens the solver's updates, see ``dehaze.inversion.RELAXATIONS``.
        criterion: says when a step is done, see ``dehaze.inversion.CRITERIA``.
        max_iterations: the most iterations of a step; at least 1.
        tolerance: bound below which the criterion's number must fall; above 0 and at most 1.
        depth: how many of the N steps to invert; all when None.
        guidance_scale: classifier-free guidance g, 0 to 50.
        adjustment: changes the photo to fit the prompt better, before it is inverted, see
            ``dehaze.inversion.ADJUSTMENTS``; None for none.
        adjustment_repeats: how often it is made; at least 1.
        checked: whether f(z) - z is evaluated at the solution of every step, whatever the
            criterion, for one more evaluation a step.

    Example:
        >>> InversionSettings(steps=20).changed(solver="edict").solver
        'edict'
    """

    steps: int = 50
    spacing: str | None = None
    solver: str = "anderson"
    predictor: str = "ife"
    relaxation: str = "none"
    criterion: str = "residual"
    max_iterations: int = 10
    tolerance: float = 1e-4
    depth: int | None = None
    guidance_scale: float = 1.0
    adjustment: str | None = None
    adjustment_repeats: int = 1
    checked: bool = False

    def __post_init__(self) -> None:
        # Python's own numbers, since NumPy's could not be saved as JSON.
        for name, bounds in (
            ("tolerance", ranges.TOLERANCE),
            ("guidance_scale", ranges.GUIDANCE_SCALE),
        ):
            object.__setattr__(self, name, float(bounds.check(getattr(self, name))))
        for name in ("steps", "max_iterations", "adjustment_repeats", "depth"):
            value = getattr(self, name)
            if name != "depth" or value is not None:
                object.__setattr__(self, name, int(ranges.check_count(name, value)))
        ranges.check_switch("checked", self.checked)
        if self.depth is not None and self.depth > self.steps:
            raise ValueError(f"depth is {self.depth}: it must be 1 to {self.steps}, the steps")
        if self.adjustment is None and self.adjustment_repeats != 1:
            raise ValueError("adjustment_repeats has no effect without an adjustment: name one")

    @property
    def inverted_steps(self) -> int:
        """n, how many steps are inverted."""
        return self.steps if self.depth is None else self.depth

    def changed(
        self,
        *,
        steps: int | None = None,
        guidance_scale: float | None = None,
        **options: Unpack[InversionOptions],
    ) -> InversionSettings:
        """These settings with the given ones changed; a setting that is None stays.

        A named solver runs as it was published, from z_{i-1}, with its own updates and the
        criterion ``intra-path``, unless these settings are named too. Where these settings take one
        iteration a step, it takes up to ten.

        Raises:
            SettingError: the solver does not use a setting that is given, or a criterion or a
                tolerance is given for steps that end after one iteration anyway.
            ValueError: there is no such solver, or a value is out of range.
            TypeError: there is no such setting.
        """
        given: dict[str, Any] = {"steps": steps, "guidance_scale": guidance_scale, **options}
        given = {name: value for name, value in given.items() if value is not None}
        unknown = given.keys() - {field.name for field in fields(self)}
        if unknown:
            raise TypeError(f"there is no option {', '.join(sorted(unknown))}")
        published = PUBLISHED if "solver" in given else {}
        if published and self.max_iterations == 1:
            # After one iteration every published solver is DDIM inversion.
            published = published | {"max_iterations": InversionSettings.max_iterations}
        changed = replace(self, **(published | given))
        for name in idle_settings(changed.solver, checked=changed.checked):
            if name in given:
                raise SettingError(
                    f"{name} has no effect with the solver {changed.solver!r}: leave it out"
                )
        if changed.max_iterations == 1 and not changed.checked:
            stated = "max_iterations" in given
            # A criterion that evaluates the solution compares it with the tolerance even then.
            compared = stated and CRITERIA.get(changed.criterion).evaluated
            for name, has_effect in (("criterion", stated), ("tolerance", compared)):
                if name in given and not has_effect:
                    raise SettingError(
                        f"{name} has no effect where a step takes one iteration, as it does here: "
                        "leave it out, or allow more iterations"
                    )
        return changed

    def generated(self) -> InversionSettings:
        """The settings of a picture made from noise on this schedule, where nothing is solved."""
        return InversionSettings(
            steps=self.steps, spacing=self.spacing, guidance_scale=self.guidance_scale
        ).changed(solver="ddim")


PUBLISHED: dict[str, Any] = {
    "predictor": "previous", "relaxation": "none", "criterion": "intra-path"
}  # fmt: skip
"""The settings of a solver as it was published: DDIM's start, and its own updates."""


def best_at_equal_cost(steps: int) -> InversionSettings:
    """The settings that reconstruct best for their cost with the bundled network.

    They were fitted on that network. A step starts from an extrapolation and takes one evaluation
    with a relaxed update. Where its expected error is too large, Anderson acceleration goes on: for
    at most six evaluations, or ten from 20 steps on. The tolerance is 0.02 N^(-3/2). Only
    ``checked`` tells whether a step has converged.

    Args:
        steps: N.
    """
    return InversionSettings(
        steps=steps,
        spacing=None,
        solver="anderson",
        predictor="extrapolated",
        relaxation="fitted",
        criterion="expected-error",
        max_iterations=max(6, min(10, steps // 2)),
        tolerance=0.02 * steps**-1.5,
    )
