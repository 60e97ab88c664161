"""How a solver fared, step by step and photo by photo."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class InversionTrace:
    """How the solver fared at each of n steps, for each of B samples.

    Attributes:
        residuals: (n, K, B), norm(f(z_k) - z_k) / norm(f(z_k)) at each iteration; NaN where not
            measured.
        inter: (n, K, B), the inter-path residual likewise; NaN where one path was followed.
        bounds: (n, K, B), Banach's bound of the relative error after each iteration; infinite
            where it says nothing, NaN where not measured.
        iterations: int64 (n, B).
        nfe: int64 (n, B), network evaluations; a guided evaluation counts twice.
        contraction: (n, B), estimate of the contraction constant; NaN where unknown. 1 or above:
            not contractive here.
        stopped: bool (n, B), whether the criterion was met, whatever it watches.
        remaining: (n, B), norm(f(z) - z) / norm(z) at the z_i that the inversion holds; NaN where
            it was not evaluated.
        converged: bool (n, B), whether ``remaining`` is known and below the tolerance.
    """

    residuals: Tensor
    inter: Tensor
    bounds: Tensor
    iterations: Tensor
    nfe: Tensor
    contraction: Tensor
    stopped: Tensor
    remaining: Tensor
    converged: Tensor

    @classmethod
    def unmeasured(cls, depth: int, latents: Tensor, *, evaluations: int) -> InversionTrace:
        """The trace of steps that were neither iterated nor measured.

        Args:
            depth: n.
            latents: z_0, (B, C, H, W).
            evaluations: of the network, a step.
        """
        shape = (depth, latents.shape[0])
        once = torch.ones(shape, dtype=torch.int64)

        def unknown(*dimensions: int) -> Tensor:
            return torch.full(dimensions, torch.nan, dtype=latents.dtype)

        return cls(
            residuals=unknown(depth, 1, shape[1]),
            inter=unknown(depth, 1, shape[1]),
            bounds=unknown(depth, 1, shape[1]),
            iterations=once,
            nfe=evaluations * once,
            contraction=unknown(*shape),
            stopped=once.bool(),
            remaining=unknown(*shape),
            converged=torch.zeros_like(once, dtype=torch.bool),
        )

    @property
    def last_residuals(self) -> Tensor:
        """(n, B), the last residual measured at each step; NaN where none was."""
        known = ~self.residuals.isnan()
        last = (known * torch.arange(1, known.shape[1] + 1)[None, :, None]).amax(1) - 1
        values = self.residuals.gather(1, last.clamp(min=0)[:, None])[:, 0]
        return torch.where(last >= 0, values, torch.nan)

    @property
    def worst_residual(self) -> float:
        """The largest last residual of any step and sample; NaN when none was measured."""
        known = self.last_residuals[~self.last_residuals.isnan()]
        return float(known.max()) if known.numel() else float("nan")

    def sample(self, b: int) -> InversionTrace:
        """The trace of sample b alone."""
        return InversionTrace(**{name: each[..., b : b + 1] for name, each in vars(self).items()})

    def to_dict(self) -> dict[str, Any]:
        """The trace as plain lists, ready for JSON; None for what is unknown or infinite."""
        return {name: _plain(tensor.tolist()) for name, tensor in vars(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
