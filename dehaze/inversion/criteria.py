"""Criteria: when a solver stops, by residuals, the contraction constant, or error bounds.

f is the map of one step, z_k an iterate, z* = f(z*) the solution. A norm is the root mean square
over one sample. A step has *converged* where norm(f(z) - z) / norm(z), evaluated at the z that is
returned, is below the tolerance. A criterion that watches another number only stops the solver.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from dehaze.inversion.relaxation import filtered, frequencies, transformed
from dehaze.inversion.schedule import StepTable
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
        added: norm(z_{k+1} - f(z_k)) / norm(f(z_k)), with the difference weighted by the
            criterion's ``gain``.
    """

    residual: Tensor
    intra: Tensor
    inter: Tensor
    contraction: Tensor
    bound: Tensor
    added: Tensor


@dataclass(frozen=True)
class Criterion:
    """A registered criterion.

    Attributes:
        watched: the number, (b,), that must fall below the tolerance.
        source: where it was published.
        paths: how many paths are followed, each from a start of its own.
        later: the number to watch after step 1; None for ``watched`` at every step.
        gain: (B, 1, H, W), the factor by which each spatial frequency of an error grows on the way
            to the picture, for ``Measurement.added``; None for 1.
        retreats: whether a sample stops when its residual grows, and returns the iterate before.
        evaluated: whether the iterate of the smallest residual is returned, whose residual is
            known, rather than the solver's last iterate.
    """

    watched: Callable[[Measurement], Tensor]
    source: str
    paths: int = 1
    later: Callable[[Measurement], Tensor] | None = None
    gain: Tensor | None = None
    retreats: bool = False
    evaluated: bool = False

    def of_step(self, table: StepTable, i: int, clean: Tensor) -> Criterion:
        """The criterion at step i of the inversion of z_0, (B, C, H, W)."""
        if self.later is None or i == 1:
            return self
        return replace(self, watched=self.later, gain=gain_to_picture(table, i, clean))

    def weighted(self, difference: Tensor, index: Tensor) -> Tensor:
        """A difference of latents (b, C, H, W), each spatial frequency times its ``gain``."""
        return difference if self.gain is None else filtered(difference, self.gain[index])


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
# At step 1 the residual is the error of the reconstructed picture. At later steps, after one
# evaluation, the error is about as large as what a relaxation added to f(z).
CRITERIA.register(
    "reconstruction",
    Criterion(
        lambda measured: measured.intra,
        "this project",
        later=lambda measured: measured.added,
        retreats=True,
    ),
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
    index: Tensor,
    criterion: Criterion,
) -> Measurement:
    """Residuals, the contraction and Banach's bound after an evaluation.

    Args:
        now: the evaluation at z_k.
        before: the one at z_{k-1}; None after the first.
        following: z_{k+1}, (paths * b, C, H, W).
        index: (b,), the samples' positions in the batch.
        criterion: what follows the paths.
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
        added=root_mean_square(criterion.weighted(difference, index)) / scale,
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


def power(latents: Tensor) -> Tensor:
    """For each wave of the cosine transform, the mean square of all waves of its frequency.

    Frequencies are rounded to whole cycles of the longer side. The mean of the latents, frequency
    0, is counted to the lowest frequency, so that an error of the mean has a weight even where the
    mean is 0.

    Args:
        latents: (B, C, H, W).

    Returns:
        (B, 1, H, W), averaged over channels.
    """
    height, width = latents.shape[-2:]
    ring, members = _rings(height, width, latents.device)
    squares = transformed(latents).square().mean(1).flatten(1)
    sums = squares.new_zeros(len(squares), len(members)).index_add_(1, ring, squares)
    return (sums / members)[:, ring].view(-1, 1, height, width)


@lru_cache(maxsize=16)
def _rings(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Each wave's frequency in whole cycles, (H W,), and the number of waves of that frequency."""
    lengths = (frequencies(height, width) * max(height, width)).round().clamp(min=1.0)
    ring = lengths.long().flatten()
    return ring.to(device), torch.bincount(ring).clamp(min=1).to(device)


def gain_to_picture(table: StepTable, i: int, clean: Tensor) -> Tensor:
    """The factor by which an error of z_i is expected to grow until z_0, on the way back.

    If pictures are Gaussian in a direction, with the variance V, the deterministic path keeps the
    quantile: z_0 / sqrt(V) = z_i / sqrt(k_i^2 V + s_i^2), where z_i is the picture with the weight
    k_i and noise with the weight s_i. An error of z_i is then multiplied by
    sqrt(V / (k_i^2 V + s_i^2)). V is the picture's own ``power``.

    Args:
        table: the schedule.
        i: the step.
        clean: z_0, (B, C, H, W).

    Returns:
        a factor for each wave, (B, 1, H, W).

    Source: this project; Song et al., arXiv 2011.13456, for the path.
    """
    variance = power(clean)
    return (variance / (table.signal(i) ** 2 * variance + table.sigma(i) ** 2)).sqrt()
