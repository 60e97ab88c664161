"""Solvers for the implicit inversion step z = f(z), each sample of a batch on its own.

A solver sees f and a start, nothing else. f takes the latents of the samples still at work and
their positions in the batch, so that converged samples cost nothing more. All iterative solvers
share one loop; each of them is a rule that makes the next iterate of the evaluations so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from dehaze.inversion.criteria import Criterion, Evaluation, measure
from dehaze.inversion.relaxation import Update, as_it_is

FixedPointMap = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Solution:
    """What a solver found.

    Attributes:
        z: (B, C, H, W), the last iterate of each sample, of its first path.
        iterations: int64 (B,).
        nfe: int64 (B,), evaluations of f, those of all paths.
        residuals: (K, B), the intra-path residual at each iteration; NaN where a sample was no
            longer iterated, or where the solver does not measure it.
        inter: (K, B), the inter-path residual likewise; NaN where one path was followed.
        bounds: (K, B), Banach's bound of the error after each iteration; infinite where it says
            nothing, NaN where there was none.
        contraction: (B,), estimate of the contraction constant q at the last iteration; NaN where
            unknown. 1 or above: not contractive here.
        converged: bool (B,).
    """

    z: Tensor
    iterations: Tensor
    nfe: Tensor
    residuals: Tensor
    inter: Tensor
    bounds: Tensor
    contraction: Tensor
    converged: Tensor


class Solver(Protocol):
    """The signature that every solver has.

    ``z_start`` is (paths * B, C, H, W): the starts of the B samples, then those of the criterion's
    second path. A row's position among these is what f is told. ``relaxation`` puts
    g(z) = z + relaxation(f(z) - z), which has the same fixed points, in f's place.
    """

    def __call__(
        self,
        f: FixedPointMap,
        z_start: Tensor,
        *,
        tolerance: float,
        max_iterations: int,
        criterion: Criterion,
        relaxation: Update = as_it_is,
    ) -> Solution: ...


@dataclass(frozen=True)
class SolverEntry:
    """A registered solver and what a user should know of it.

    Attributes:
        name: as it is called on the command line.
        solve: the function.
        cost: in network evaluations (NFE).
        exact: whether the step is undone exactly whatever the network does.
        needs_grad: whether the network must be differentiable.
        source: where it was published.
        share: (low, high): it solves the steps i with low N < i < high N, plain DDIM the others.
    """

    name: str
    solve: Solver
    cost: str
    exact: bool
    needs_grad: bool
    source: str
    share: tuple[float, float] = (0.0, math.inf)

    def of_step(self, i: int, steps: int) -> Solver:
        """What solves step i of N."""
        low, high = self.share
        return self.solve if low * steps < i < high * steps else ddim


_SOLVERS: dict[str, SolverEntry] = {}


def register_solver(
    name: str,
    *,
    cost: str,
    exact: bool,
    needs_grad: bool,
    source: str,
    share: tuple[float, float] = (0.0, math.inf),
) -> Callable[[Solver], Solver]:
    """Registers a solver under ``name``; a name can be taken once."""

    def register(solve: Solver) -> Solver:
        if name in _SOLVERS:
            raise ValueError(f"solver {name!r} is registered already")
        _SOLVERS[name] = SolverEntry(name, solve, cost, exact, needs_grad, source, share)
        return solve

    return register


def list_solvers() -> list[str]:
    """The names of all solvers."""
    return list(_SOLVERS)


def get_solver(name: str) -> SolverEntry:
    """The solver of that name.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    if name not in _SOLVERS:
        raise ValueError(f"unknown solver {name!r}: there are {', '.join(_SOLVERS)}")
    return _SOLVERS[name]


@register_solver(
    "ddim",
    cost="1 NFE a step",
    exact=False,
    needs_grad=False,
    source="Song et al. 2021, arXiv 2010.02502; Dhariwal and Nichol 2021, arXiv 2105.05233",
)
def ddim(
    f: FixedPointMap,
    z_start: Tensor,
    *,
    tolerance: float,
    max_iterations: int,
    criterion: Criterion,
    relaxation: Update = as_it_is,
) -> Solution:
    """Plain DDIM inversion, the baseline: z = f(z_{i-1}), once.

    Its residual is never known, since that would take the evaluation it saves: it never reports
    convergence. ``tolerance``, ``max_iterations`` and ``criterion`` have no effect.
    """
    batch = z_start.shape[0] // criterion.paths
    everyone = torch.arange(batch, device=z_start.device)
    once = torch.ones(batch, dtype=torch.int64, device=z_start.device)
    unknown = torch.full((batch,), torch.nan, device=z_start.device)
    start = z_start[:batch]
    return Solution(
        z=_relaxed(start, f(start, everyone), relaxation),
        iterations=once,
        nfe=once.clone(),
        residuals=unknown[None],
        inter=unknown[None],
        bounds=unknown[None],
        contraction=unknown,
        converged=torch.zeros(batch, dtype=torch.bool, device=z_start.device),
    )


def _relaxed(start: Tensor, mapped: Tensor, relaxation: Update) -> Tensor:
    # Not start + (mapped - start), which is mapped but for rounding.
    return mapped if relaxation is as_it_is else start + relaxation(mapped - start)


_EASYINV_KEPT = 0.5


@register_solver(
    "easyinv",
    cost="1 NFE a step",
    exact=False,
    needs_grad=False,
    source="EasyInv, arXiv 2408.05159",
    share=(0.05, 0.25),
)
def easyinv(
    f: FixedPointMap,
    z_start: Tensor,
    *,
    tolerance: float,
    max_iterations: int,
    criterion: Criterion,
    relaxation: Update = as_it_is,
) -> Solution:
    """EasyInv: plain DDIM inversion, then z_i <- eta z_i + (1 - eta) z_{i-1}, eta = 0.5.

    Only in the steps .05 N < i < .25 N, where it keeps more of the picture. z_{i-1} is the start:
    the paper's method is the one with the predictor ``previous``.
    """
    solution = ddim(
        f,
        z_start,
        tolerance=tolerance,
        max_iterations=max_iterations,
        criterion=criterion,
        relaxation=relaxation,
    )
    start = z_start[: solution.z.shape[0]]
    return replace(solution, z=torch.lerp(start, solution.z, _EASYINV_KEPT))


UpdateRule = Callable[[Sequence[Evaluation]], Tensor]
"""From the evaluations at hand, the latest one last, to z_{k+1}."""


def register_update_rule(
    name: str, *, window: int = 2, source: str
) -> Callable[[UpdateRule], UpdateRule]:
    """Registers the iterative solver that a rule makes; it sees the last ``window`` evaluations."""

    def register(update: UpdateRule) -> UpdateRule:
        def solve(
            f: FixedPointMap,
            z_start: Tensor,
            *,
            tolerance: float,
            max_iterations: int,
            criterion: Criterion,
            relaxation: Update = as_it_is,
        ) -> Solution:
            return iterate(
                f,
                z_start,
                update,
                window,
                tolerance=tolerance,
                max_iterations=max_iterations,
                criterion=criterion,
                relaxation=relaxation,
            )

        solve.__doc__ = update.__doc__
        register_solver(
            name, cost="1 NFE an iteration", exact=False, needs_grad=False, source=source
        )(solve)
        return update

    return register


def iterate(
    f: FixedPointMap,
    z_start: Tensor,
    update: UpdateRule,
    window: int,
    *,
    tolerance: float,
    max_iterations: int,
    criterion: Criterion,
    relaxation: Update = as_it_is,
) -> Solution:
    """Evaluates f and updates, until each sample's criterion is below the tolerance.

    The residuals of an iteration are those of the iterate which was put into f; what the rule makes
    of it is nearer still wherever it converges. Where it does not, a criterion that retreats takes
    the iterate of the smallest residual, which is the last but one. A relaxation puts another map
    in the place of f, of the same fixed points, before the rule.
    """
    paths = criterion.paths
    z = z_start.clone()
    batch, device = z.shape[0] // paths, z.device
    unmeasured = torch.full((max_iterations, batch), torch.nan, device=device, dtype=z.dtype)
    residuals, inter, bounds = unmeasured, unmeasured.clone(), unmeasured.clone()
    iterations = torch.zeros(batch, dtype=torch.int64, device=device)
    contraction = torch.full((batch,), torch.nan, device=device, dtype=z.dtype)
    converged = torch.zeros(batch, dtype=torch.bool, device=device)
    left = converged.clone()
    first_rows = batch * torch.arange(paths, device=device)[:, None]
    now: Evaluation | None = None
    history: list[Evaluation] = []
    for k in range(max_iterations):
        active = torch.nonzero(~(converged | left)).flatten()
        if active.numel() == 0:
            break
        rows = (first_rows + active).flatten()
        before, now = now, Evaluation(z[rows], f(z[rows], rows))
        relaxed = _relaxed(now.latent, now.mapped, relaxation)
        history = [*history[1 - window :], Evaluation(now.latent, relaxed)]
        z[rows] = update(history)
        measured = measure(now, before, z[rows], active, criterion)
        residuals[k, active], inter[k, active] = measured.intra, measured.inter
        bounds[k, active], contraction[active] = measured.bound, measured.contraction
        iterations[active] += 1
        converged[active] = criterion.residual(measured) < tolerance
        if criterion.retreats and before is not None:
            grew = measured.intra > residuals[k - 1, active]
            z[rows[grew.repeat(paths)]] = before.latent[grew.repeat(paths)]
            left[active] = grew
            converged[active[grew]] = False
            # The bound was that of the iterate which is not kept.
            bounds[k, active[grew]] = torch.inf
        kept = ~(converged | left)[active].repeat(paths)
        now, history = now.rows(kept), [evaluation.rows(kept) for evaluation in history]
    return Solution(
        z[:batch], iterations, paths * iterations, residuals, inter, bounds, contraction, converged
    )


@register_update_rule("fixed-point", source="FPI, arXiv 2312.12540, section 3.2")
def fixed_point(evaluations: Sequence[Evaluation]) -> Tensor:
    """Picard iteration: z_{k+1} = f(z_k). The error shrinks by q an iteration."""
    return evaluations[-1].mapped


_DAMPING = 0.5


@register_update_rule(
    "damped", source="Hong et al., On Exact Inversion of DPM-Solvers, CVPR 2024, algorithm 1"
)
def damped(evaluations: Sequence[Evaluation]) -> Tensor:
    """Damped iteration: z_{k+1} = (1 - d) z_k + d f(z_k), d = 0.5.

    Where f is linear of factor q the error shrinks by 1 - d + d q an iteration: slower than Picard
    for 0 < q < 1, and still convergent for -3 < q < -1, where Picard is not.
    """
    return torch.lerp(evaluations[-1].latent, evaluations[-1].mapped, _DAMPING)


def _mean_mapped(evaluations: Sequence[Evaluation]) -> Tensor:
    return torch.stack([evaluation.mapped for evaluation in evaluations]).mean(0)


@register_update_rule("averaged", source="AIDI-E, arXiv 2309.04907")
def averaged(evaluations: Sequence[Evaluation]) -> Tensor:
    """Averaged iteration: z_{k+1} = (f(z_k) + f(z_{k-1})) / 2, f(z_{k-1}) kept from before.

    The first iteration, which has no earlier value, is Picard's. Where f is linear of factor q the
    error shrinks by the larger root of x^2 = q (x + 1) / 2 an iteration.
    """
    return _mean_mapped(evaluations)


@register_update_rule("renoise", window=3, source="ReNoise, arXiv 2403.14602")
def renoise(evaluations: Sequence[Evaluation]) -> Tensor:
    """ReNoise: z_{k+1} = A_i z_{i-1} + B_i mean_j eps(z_j), over the last three iterates z_j.

    As f is affine in eps, that is the mean of the f(z_j). Where f is linear of factor q the error
    shrinks by the largest root of x^3 = q (x^2 + x + 1) / 3 an iteration.
    """
    return _mean_mapped(evaluations)


_MOMENTUM = 0.6


@register_update_rule(
    "nesterov", source="Y. Nesterov, Soviet Mathematics Doklady 27 (1983), with constant momentum"
)
def nesterov(evaluations: Sequence[Evaluation]) -> Tensor:
    """Picard iteration with momentum: z_{k+1} = f(z_k) + t (f(z_k) - f(z_{k-1})), t = 0.6.

    The first iteration, which has no earlier value, is Picard's. Where f is linear of factor q the
    error shrinks by the larger root of x^2 - (1 + t) q x + t q an iteration: faster than Picard's
    q for q > t, which is where Picard is slow. It takes |q| < 1 for q > 0 and q > -1 / (1 + 2 t).
    """
    latest = evaluations[-1].mapped
    if len(evaluations) == 1:
        return latest
    return latest + _MOMENTUM * (latest - evaluations[0].mapped)


_RIDGE = 1e-8


@register_update_rule(
    "anderson", window=4, source="AIDI-A, arXiv 2309.04907; Walker and Ni 2011, type II"
)
def anderson(evaluations: Sequence[Evaluation]) -> Tensor:
    """Anderson acceleration of type II over the last three differences, each sample on its own.

    With r_k = f(z_k) - z_k, dR and dF the columns of differences of r and f:
    gamma = argmin norm(r_k - dR gamma), z_{k+1} = f(z_k) - dF gamma. The normal equations are
    solved in float64 with a ridge of 1e-8 of their trace. Where the residual grew, and at the first
    iteration, z_{k+1} = f(z_k).
    """
    latest = evaluations[-1]
    if len(evaluations) == 1:
        return latest.mapped
    # (window, rows, D), in float64: the residuals' differences are small beside the latents.
    mapped = torch.stack([_double(evaluation.mapped) for evaluation in evaluations])
    residuals = mapped - torch.stack([_double(evaluation.latent) for evaluation in evaluations])
    dR, dF = (values.diff(dim=0).transpose(0, 1) for values in (residuals, mapped))
    gram = dR @ dR.transpose(1, 2)
    trace = gram.diagonal(dim1=1, dim2=2).sum(1)
    ridge = (_RIDGE * trace).clamp(min=torch.finfo(gram.dtype).tiny)
    gram = gram + ridge[:, None, None] * torch.eye(gram.shape[1], dtype=gram.dtype).to(gram.device)
    gamma = torch.linalg.solve(gram, dR @ residuals[-1][:, :, None])
    accelerated = mapped[-1] - (gamma * dF).sum(1)
    grew = residuals[-1].norm(dim=1) > residuals[-2].norm(dim=1)
    following = torch.where(grew[:, None], mapped[-1], accelerated)
    return following.to(latest.mapped).view_as(latest.mapped)


def _double(rows: Tensor) -> Tensor:
    # Apple's GPUs have no float64.
    place = torch.device("cpu") if rows.device.type == "mps" else rows.device
    return rows.flatten(1).to(place, torch.float64)
