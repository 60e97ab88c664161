"""The interface of networks that an inversion evaluates."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from dehaze.inversion.schedule import StepTable


class NoiseNetwork(Protocol):
    """A network under one prompt, as an inversion sees it: ``dehaze.network.PromptedNetwork``.

    Attributes:
        table: the schedule.
        cost: network evaluations of one call, 2 under guidance.
    """

    @property
    def table(self) -> StepTable: ...

    @property
    def cost(self) -> int: ...

    def __call__(self, latents: Tensor, i: int, index: Tensor) -> Tensor:
        """p(z, i) for some samples of a batch: the noise, or the velocity of a flow.

        Args:
            latents: z, (b, C, H, W).
            i: the step.
            index: int64 (b,), the samples' positions in the batch. A criterion that follows two
                paths has a batch of 2B: position B + b is the second path of sample b.
        """
