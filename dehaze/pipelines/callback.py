"""Actions after each denoising step: the edit's changes, the callback, the progress bar."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dehaze.errors import DehazeError
from dehaze.inversion import InversionResult


class CallbackError(DehazeError, ValueError):
    """A callback cannot be called, or changes what it must not; the message says what helps."""


StepCallback = Callable[[Any, int, float, dict[str, Tensor]], Any]
"""diffusers' callback: ``callback(pipeline, step, timestep, {"latents": latents})``.

It returns a dict, whose ``latents``, of the same shape, are denoised further; or None. Latents that
it changes in place, or puts into the dict that it was given, count as well.
"""


def check_callback(callback: StepCallback | None) -> None:
    """Raises ``CallbackError`` where a callback is given that cannot be called."""
    if callback is not None and not callable(callback):
        raise CallbackError(
            f"callback_on_step_end is {callback!r:.80}: it must be a function, or None"
        )


@dataclass(frozen=True)
class StepEnd:
    """Changes the latents after a denoising step.

    Attributes:
        pipeline: given to the callback.
        inversion: the inversion that is denoised.
        bar: the progress bar.
        revise: as in ``dehaze.inversion.denoise``; it comes first.
        callback: None for none.
    """

    pipeline: Any
    inversion: InversionResult
    bar: Any
    revise: Callable[[int, Tensor, Tensor], Tensor]
    callback: StepCallback | None

    def __call__(self, i: int, latents: Tensor, noise: Tensor) -> Tensor:
        """The z_{i-1} to go on with, (B, C, h, w), from the sampler's and the step's noise."""
        self.bar.update()
        latents = self.revise(i, latents, noise)
        if self.callback is None:
            return latents
        step, timestep = self.inversion.steps - i, self.inversion.table.timestep(i)
        # A copy, since it may be changed in place, and BDIA's first latents are the inversion's.
        given = {"latents": latents.clone()}
        outputs = self.callback(self.pipeline, step, timestep, given)
        changed = _latents_of(given if outputs is None else outputs, given, latents)
        if self.inversion.companion and not torch.equal(changed, latents):
            raise CallbackError(
                "callback_on_step_end changed the latents, and "
                f"{self.inversion.settings.solver} has a second latent that it does not see: "
                "leave them as they are, or invert by another solver"
            )
        return changed


def _latents_of(outputs: Any, given: Mapping[str, Tensor], latents: Tensor) -> Tensor:
    """The latents to go on with after a callback.

    Args:
        outputs: what it returned, or, for None, what it was given and may have put others into.
        given: what it was given, whose latents it may have changed in place.
        latents: as they were before.

    Raises:
        CallbackError: it returned something else, or latents of another shape or not finite.
    """
    if not isinstance(outputs, Mapping) or set(outputs) - {"latents"}:
        raise CallbackError(
            f"callback_on_step_end returned {outputs!r:.80}: it returns None or "
            '{"latents": latents}'
        )
    changed = outputs.get("latents", given.get("latents", latents))
    if not isinstance(changed, Tensor) or changed.shape != latents.shape:
        raise CallbackError(
            f"callback_on_step_end returned latents of {getattr(changed, 'shape', changed)}: "
            f"they must be {tuple(latents.shape)}"
        )
    if not bool(torch.isfinite(changed).all()):
        raise CallbackError("callback_on_step_end returned latents that are not finite numbers")
    return changed.to(latents)
