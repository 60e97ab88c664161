"""Rows that need no model: the hazy input, and classical haze removal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from dehaze.eval.methods.base import Array, Method, MethodInput, MethodOutput
from dehaze.levels import from_levels
from dehaze.priors import ClassicalMethod, HazeEstimate, recover


class HazyInput(Method):
    """The hazy picture itself: the score of doing nothing."""

    saves = False

    def run(self, source: MethodInput) -> MethodOutput:
        return MethodOutput(image=from_levels(source.hazy))


class BaselineMethod(Method):
    """A baseline; its oracle chooses among bounds on t from .05 to .5."""

    _BOUNDS: ClassVar[tuple[float, ...]] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)

    def __init__(self, description: ClassicalMethod) -> None:
        super().__init__(description.name, f"{description.title} ({description.source})")
        self._description = description
        self.has_candidates = description.estimate is not None

    def run(self, source: MethodInput) -> MethodOutput:
        hazy = from_levels(source.hazy)
        estimate = self._estimate(hazy)
        return MethodOutput(
            image=self._description.run(hazy),
            transmission=None if estimate is None else estimate.transmission,
            airlight=None if estimate is None else estimate.airlight,
        )

    def candidates(self, source: MethodInput) -> Iterator[tuple[str, MethodOutput]]:
        hazy = from_levels(source.hazy)
        estimate = self._estimate(hazy)
        if estimate is None:
            yield "", self.run(source)
            return
        for bound in self._BOUNDS:
            image = recover(hazy, estimate, bound)
            yield (
                f"t_min={bound}",
                MethodOutput(image, None, None, estimate.transmission, estimate.airlight),
            )

    def _estimate(self, hazy: Array) -> HazeEstimate | None:
        return self._description.estimate(hazy) if self._description.estimate else None
