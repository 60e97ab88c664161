"""Criteria: when a solver stops, by residuals, the contraction constant, or error bounds.

f is the map of one step, z_k an iterate, z* = f(z*) the solution. A norm is the root mean square
over one sample. A step has *converged* where norm(f(z) - z) / norm(z), evaluated at the z that is
returned, is below the tolerance. A criterion that watches another number only stops the solver.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dehaze.registry import Registry


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of f on b samples, along one or more paths.

    Attributes:
        latent: z_k, (paths * b, C, H, W): all samples of the first path, then those of the next.
        mapped: f(z_k), the same shape.
    """

    latent: Tensor
    mapped: Tensor

    def rows(self, kept: Tensor) -> Evaluation:
        """The evaluation of some rows only."""
        return Evaluation(self.latent[kept], self.mapped[kept])


@dataclass(frozen=True)
class Measurement:
    """Residuals and bounds of b samples after an evaluation; each field is (b,).

    Attributes:
        residual: norm(f(z_k) - z_k) / norm(z_k) along the first path.
        intra: norm(f(z_k) - z_k) / norm(f(z_k)), likewise.
        inter: norm(f(z_k) - f(z'_k)) / norm(f(z_k)) between two paths; NaN where there is one.
        contraction: q, an estimate of f's contraction constant: f contracts where it is below 1.
            NaN after the first evaluation of a single path.
        bound: upper bound of norm(z_{k+1} - z*) / norm(f(z_k)), where z_{k+1} is the solver's next
            iterate; infinite where q is unknown or not below 1.
        expected: expected norm(z_{k+1} - z*) / norm(f(z_k)), from the doubt of the slope by which
            the update is relaxed. Where none is known it is ``intra``.
    """

    residual: Tensor
    intra: Tensor
    inter: Tensor
    contraction: Tensor
    bound: Tensor
    expected: Tensor


@dataclass(frozen=True)
class Criterion:
    """A registered criterion.

    Attributes:
        watched: the number, (b,), that must fall below the tolerance.
        source: where it was published.
        paths: how many paths are followed, each from a start of its own.
        retreats: whether a sample stops when its residual grows, and returns the iterate before.
        evaluated: whether the iterate of the smallest residual is returned, whose residual is
            known, rather than the solver's last iterate.
    """

    watched: Callable[[Measurement], Tensor]
    source: str
    paths: int = 1
    retreats: bool = False
    evaluated: bool = False


CRITERIA: Registry[Criterion] = Registry("criterion")
CRITERIA.register(
    "residual",
    Criterion(lambda measured: measured.residual, "the fixed point's own equation", evaluated=True),
)
CRITERIA.register(
    "intra-path",
    Criterion(lambda measured: measured.intra, "FPI, arXiv 2312.12540; AIDI, arXiv 2309.04907"),
)
CRITERIA.register(
    "inter-path",
    Criterion(
        lambda measured: torch.maximum(measured.intra, measured.inter),
        "Exploring Fixed Point in Image Editing, NeurIPS 2024",
        paths=2,
    ),
)
CRITERIA.register(
    "certificate",
    Criterion(
        lambda measured: measured.bound, "Banach's a-posteriori bound, its constant estimated"
    ),
)
# One evaluation is enough where the slope of the relaxation is nearly certain.
CRITERIA.register(
    "expected-error",
    Criterion(lambda measured: measured.expected, "this project", retreats=True),
)


def root_mean_square(values: Tensor) -> Tensor:
    """Root of the mean square of each sample: (B, ...) -> (B,)."""
    return values.flatten(1).square().mean(1).sqrt()


def relative_residual(latent: Tensor, mapped: Tensor) -> Tensor:
    """norm(f(z) - z) / norm(z), from z and f(z), (B, C, H, W) each -> (B,)."""
    return root_mean_square(mapped - latent) / root_mean_square(latent).clamp(min=1e-12)


def measure(
    now: Evaluation,
    before: Evaluation | None,
    following: Tensor,
    criterion: Criterion,
    doubt: float,
) -> Measurement:
    """Residuals, the contraction and Banach's bound after an evaluation.

    Args:
        now: the evaluation at z_k.
        before: the one at z_{k-1}; None after the first.
        following: z_{k+1}, (paths * b, C, H, W).
        criterion: what follows the paths.
        doubt: of the lengthening that made z_{k+1}, see ``Lengthening``.
    """
    paths = criterion.paths
    latents, mapped = (rows.unflatten(0, (paths, -1)) for rows in (now.latent, now.mapped))
    scale = root_mean_square(mapped[0]).clamp(min=1e-12)
    intra = root_mean_square(mapped[0] - latents[0]) / scale
    contraction = torch.full_like(intra, torch.nan)
    inter = contraction
    if before is not None:
        ratios = lipschitz_ratio(now, before).unflatten(0, (paths, -1))
        contraction = ratios.amax(0)
    if paths == 2:
        inter = root_mean_square(mapped[0] - mapped[1]) / scale
        across = lipschitz_ratio(*(Evaluation(latents[path], mapped[path]) for path in (0, 1)))
        contraction = torch.fmax(contraction, across)
    difference = following.unflatten(0, (paths, -1))[0] - mapped[0]
    return Measurement(
        residual=relative_residual(latents[0], mapped[0]),
        intra=intra,
        inter=inter,
        contraction=contraction,
        bound=root_mean_square(difference) / scale + banach_bound(intra, cautious(contraction)),
        expected=doubt * intra,
    )


def lipschitz_ratio(one: Evaluation, other: Evaluation) -> Tensor:
    """norm(f(z) - f(z')) / norm(z - z'), (b, C, H, W) twice -> (b,).

    It is a lower bound of f's contraction constant, and equal to it where f contracts by the same
    factor in all directions. On the path z_{k+1} = f(z_k), with z = z_k and z' = z_{k-1}, it is
    norm(z_{k+1} - z_k) / norm(z_k - z_{k-1}).
    """
    images = root_mean_square(one.mapped - other.mapped)
    return images / root_mean_square(one.latent - other.latent).clamp(min=1e-12)


# The first iterates change where f contracts most, so their ratio underestimates the constant. The
# exponent was measured, not derived: docs/notes/inversion.md.
_CAUTION = 1.0 / 3.0


def cautious(contraction: Tensor) -> Tensor:
    """q^(1/3), between q and 1: ratios are lower bounds of the constant."""
    return contraction**_CAUTION


def banach_bound(change: Tensor, contraction: Tensor) -> Tensor:
    """q / (1 - q) norm(f(z_k) - z_k), an upper bound of norm(f(z_k) - z*) where q < 1.

    Args:
        change: norm(f(z_k) - z_k), (b,), not negative.
        contraction: q, (b,).

    Returns:
        (b,); infinite where q is 1 or above or NaN: Banach's theorem says nothing there.

    Source: S. Banach, Fundamenta Mathematicae 3 (1922); the a-posteriori form of the estimate.
    """
    bound = contraction / (1.0 - contraction) * change
    return torch.where(contraction < 1.0, bound, torch.inf)
