"""When a fixed-point iteration has converged."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Criterion = Callable[[Tensor, Tensor], Tensor]


def root_mean_square(values: Tensor) -> Tensor:
    """Root of the mean square of each sample: (B, ...) -> (B,)."""
    return values.flatten(1).square().mean(1).sqrt()


def intra_path(mapped: Tensor, latent: Tensor) -> Tensor:
    """Relative residual along one path: rms(f(z) - z) / rms(f(z)), (B, ...) -> (B,).

    Source: what FPI (arXiv 2312.12540) and AIDI (arXiv 2309.04907) watch, made relative.
    """
    return root_mean_square(mapped - latent) / root_mean_square(mapped).clamp(min=1e-12)


CRITERIA: dict[str, Criterion] = {"intra-path": intra_path}
