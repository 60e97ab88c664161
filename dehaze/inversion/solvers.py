"""Solvers for the implicit inversion step z = f(z), each sample of a batch on its own.

A solver sees f and a start, nothing else. f takes the latents of the samples still at work and
their positions in the batch, so that converged samples cost nothing more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dehaze.inversion.criteria import Criterion

FixedPointMap = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Solution:
    """What a solver found.

    Attributes:
        z: (B, C, H, W), the last iterate of each sample.
        iterations: int64 (B,).
        nfe: int64 (B,), evaluations of f.
        residuals: (K, B), the criterion after each iteration; NaN where a sample was no longer
            iterated, or where the solver does not measure it.
        contraction: (B,), estimate of the contraction constant q, the ratio of the last two
            changes; NaN before there are two. 1 or above: not contractive here.
        converged: bool (B,).
    """

    z: Tensor
    iterations: Tensor
    nfe: Tensor
    residuals: Tensor
    contraction: Tensor
    converged: Tensor


class Solver(Protocol):
    """The signature that every solver has."""

    def __call__(
        self,
        f: FixedPointMap,
        z_start: Tensor,
        *,
        tolerance: float,
        max_iterations: int,
        criterion: Criterion,
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
    """

    name: str
    solve: Solver
    cost: str
    exact: bool
    needs_grad: bool
    source: str


_SOLVERS: dict[str, SolverEntry] = {}


def register_solver(
    name: str, *, cost: str, exact: bool, needs_grad: bool, source: str
) -> Callable[[Solver], Solver]:
    """Registers a solver under ``name``; a name can be taken once."""

    def register(solve: Solver) -> Solver:
        if name in _SOLVERS:
            raise ValueError(f"solver {name!r} is registered already")
        _SOLVERS[name] = SolverEntry(name, solve, cost, exact, needs_grad, source)
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
) -> Solution:
    """Plain DDIM inversion, the baseline: z = f(z_{i-1}), once.

    Its residual is never known, since that would take the evaluation it saves: it never reports
    convergence. ``tolerance``, ``max_iterations`` and ``criterion`` have no effect.
    """
    batch = z_start.shape[0]
    everyone = torch.arange(batch, device=z_start.device)
    once = torch.ones(batch, dtype=torch.int64, device=z_start.device)
    unknown = torch.full((batch,), torch.nan, device=z_start.device)
    return Solution(
        z=f(z_start, everyone),
        iterations=once,
        nfe=once.clone(),
        residuals=unknown[None],
        contraction=unknown.clone(),
        converged=torch.zeros(batch, dtype=torch.bool, device=z_start.device),
    )


@register_solver(
    "fixed-point",
    cost="1 NFE an iteration",
    exact=False,
    needs_grad=False,
    source="FPI, arXiv 2312.12540, section 3.2",
)
def fixed_point(
    f: FixedPointMap,
    z_start: Tensor,
    *,
    tolerance: float,
    max_iterations: int,
    criterion: Criterion,
) -> Solution:
    """Picard iteration: z <- f(z), until the criterion is below ``tolerance``.

    The residual of an iteration is that of the iterate which was put into f; what comes out is
    nearer still wherever f contracts.
    """
    z = z_start.clone()
    batch, device = z.shape[0], z.device
    iterations = torch.zeros(batch, dtype=torch.int64, device=device)
    residuals = torch.full((max_iterations, batch), torch.nan, device=device, dtype=z.dtype)
    contraction = torch.full((batch,), torch.nan, device=device, dtype=z.dtype)
    converged = torch.zeros(batch, dtype=torch.bool, device=device)
    for k in range(max_iterations):
        active = torch.nonzero(~converged).flatten()
        if active.numel() == 0:
            break
        mapped = f(z[active], active)
        residual = criterion(mapped, z[active])
        residuals[k, active] = residual
        if k > 0:
            contraction[active] = residual / residuals[k - 1, active].clamp(min=1e-12)
        z[active] = mapped
        iterations[active] += 1
        converged[active] = residual < tolerance
    return Solution(z, iterations, iterations.clone(), residuals, contraction, converged)
