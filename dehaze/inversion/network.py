"""The network as the inversion sees it: a function of latents, and of nothing else."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dehaze.errors import DehazeError
from dehaze.inversion.schedule import DDIMTable

NetworkFunction = Callable[[Tensor, int, Tensor], Tensor]
"""(latents (b, C, H, W), step i, positions (b,) in the batch) -> network output (b, C, H, W).

A criterion that follows two paths has a batch of 2B: position B + b is the second path of sample b.
"""


class NonFiniteError(DehazeError, ArithmeticError):
    """The network returned a value that is not finite."""


def evaluate_noise(
    table: DDIMTable, network: NetworkFunction, z: Tensor, i: int, index: Tensor
) -> Tensor:
    """eps(z, i), in the latents' own precision whatever the network's is.

    Raises:
        NonFiniteError: the network returned a value that is not finite.
    """
    output = network(z, i, index).to(z.dtype)
    require_finite(output, i, table)
    return table.predicted_noise(output, z, i)


def require_finite(output: Tensor, i: int, table: DDIMTable) -> None:
    """Raises ``NonFiniteError`` if the network's output at step i is not finite."""
    if not torch.isfinite(output).all():
        raise NonFiniteError(
            f"the network's output at step {i} (timestep {table.timestep(i)}) is not finite: "
            "run it in float32"
        )
