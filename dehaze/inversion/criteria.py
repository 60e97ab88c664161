"""When a fixed-point iteration has converged, and how far from the solution it can still be.

f is the step's map, z_k an iterate, z* = f(z*) the solution. All norms are root mean squares over
one sample, and all residuals are relative to that of f(z_k).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dehaze.inversion.schedule import DDIMTable
from dehaze.inversion.spectrum import filtered, gain_to_picture


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of f on the rows of b samples, a row for each path and sample, path by path.

    Attributes:
        latent: z_k, (paths * b, C, H, W).
        mapped: f(z_k), the same shape.
    """

    latent: Tensor
    mapped: Tensor

    def rows(self, kept: Tensor) -> Evaluation:
        """The evaluation of some rows only."""
        return Evaluation(self.latent[kept], self.mapped[kept])


@dataclass(frozen=True)
class Measurement:
    """What is known of b samples after an evaluation, each field (b,).

    Attributes:
        intra: norm(f(z_k) - z_k) along the first path.
        inter: norm(f(z_k) - f(z'_k)) between two paths; NaN where there is one.
        contraction: q, estimate of f's contraction constant; NaN after the first evaluation of a
            single path. 1 or above: not contractive here.
        bound: of norm(z_{k+1} - z*), z_{k+1} being what the solver makes of the evaluation;
            infinite where q is unknown or not below 1.
        unconfirmed: norm(z_{k+1} - f(z_k)), what the solver adds to f(z_k), as the criterion sees
            it.
    """

    intra: Tensor
    inter: Tensor
    contraction: Tensor
    bound: Tensor
    unconfirmed: Tensor


Sight = Callable[[Tensor, Tensor], Tensor]
"""(differences of latents (b, C, H, W), positions (b,) in the batch) -> what is seen of them."""


def unchanged(difference: Tensor, index: Tensor) -> Tensor:
    """All of it, as it is."""
    return difference


@dataclass(frozen=True)
class Criterion:
    """A registered criterion.

    Attributes:
        name: as it is called in settings.
        residual: what must fall below the tolerance, (b,).
        paths: how many paths it follows, each from a start of its own.
        source: where it was published.
        later: what must fall below it after step 1, if that is another thing.
        seen: through which differences of latents are seen in ``Measurement.unconfirmed``.
        retreats: whether a sample whose residual grew goes back to the iterate before and is left
            there, unsolved.
    """

    name: str
    residual: Callable[[Measurement], Tensor]
    paths: int
    source: str
    later: Callable[[Measurement], Tensor] | None = None
    seen: Sight = unchanged
    retreats: bool = False

    def of_step(self, table: DDIMTable, i: int, clean: Tensor) -> Criterion:
        """As it is at step i of the inversion of z_0, (B, C, H, W)."""
        if self.later is None or i == 1:
            return self
        gain = gain_to_picture(table, i, clean)
        return replace(
            self,
            residual=self.later,
            seen=lambda latents, index: filtered(latents, gain[index]),
        )


# Of "reconstruction": step 1's residual is by how much the picture would come back wrong. After a
# later step's only evaluation the error is about as large as what the relaxation added to it.
CRITERIA: dict[str, Criterion] = {
    criterion.name: criterion
    for criterion in (
        Criterion(
            "intra-path",
            lambda measured: measured.intra,
            1,
            "FPI, arXiv 2312.12540; AIDI, arXiv 2309.04907",
        ),
        Criterion(
            "inter-path",
            lambda measured: torch.maximum(measured.intra, measured.inter),
            2,
            "Exploring Fixed Point in Image Editing, NeurIPS 2024",
        ),
        Criterion(
            "certificate",
            lambda measured: measured.bound,
            1,
            "Banach's a-posteriori bound, its constant estimated",
        ),
        Criterion(
            "reconstruction",
            lambda measured: measured.intra,
            1,
            "this project",
            later=lambda measured: measured.unconfirmed,
            retreats=True,
        ),
    )
}


def list_criteria() -> list[str]:
    """The names of all criteria."""
    return list(CRITERIA)


def get_criterion(name: str) -> Criterion:
    """The criterion of that name.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    if name not in CRITERIA:
        raise ValueError(f"unknown criterion {name!r}: there are {', '.join(CRITERIA)}")
    return CRITERIA[name]


def root_mean_square(values: Tensor) -> Tensor:
    """Root of the mean square of each sample: (B, ...) -> (B,)."""
    return values.flatten(1).square().mean(1).sqrt()


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
    added = following.unflatten(0, (paths, -1))[0] - mapped[0]
    bound = root_mean_square(added) / scale + banach_bound(intra, cautious(contraction))
    unconfirmed = root_mean_square(criterion.seen(added, index)) / scale
    return Measurement(intra, inter, contraction, bound, unconfirmed)


def lipschitz_ratio(one: Evaluation, other: Evaluation) -> Tensor:
    """norm(f(z) - f(z')) / norm(z - z'), (b, C, H, W) twice -> (b,).

    With z = z_k, z' = z_{k-1} on the path of z_{k+1} = f(z_k) it is norm(z_{k+1} - z_k) /
    norm(z_k - z_{k-1}). It is a lower bound of f's contraction constant, equal to it where f
    contracts alike in all directions.
    """
    images = root_mean_square(one.mapped - other.mapped)
    return images / root_mean_square(one.latent - other.latent).clamp(min=1e-12)


# On the model that ships the ratio of the second and the first change is down to 0.16 where later
# ones are 0.42: the first changes go where f contracts most.
_CAUTION = 1.0 / 3.0


def cautious(contraction: Tensor) -> Tensor:
    """q^(1/3), between q and 1, to make up for ratios that are lower bounds of the constant.

    The exponent is measured, not derived: see docs/inversion.md.
    """
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
