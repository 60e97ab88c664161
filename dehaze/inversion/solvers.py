"""Solvers of the implicit inversion step z = f(z). Each sample of a batch is solved by itself.

A solver is given f and a start. f takes the latents of the samples that are still iterated, and
their positions in the batch. A sample that has stopped costs no more evaluations. All iterative
solvers share the loop ``UpdateRule``, and differ in the update.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from dehaze.inversion.criteria import Criterion, Evaluation, Measurement, measure
from dehaze.inversion.relaxation import Lengthening
from dehaze.inversion.schedule import Process
from dehaze.registry import Registry

if TYPE_CHECKING:
    from dehaze.inversion.denoising import WayBack
    from dehaze.inversion.noise_network import NoiseNetwork
    from dehaze.inversion.result import InversionResult


class Regulariser(Protocol):
    """Replaces f(z), (B, C, H, W), by the value that a regularised noise would give."""

    @property
    def evaluations(self) -> int:
        """Network evaluations that it has taken."""

    def __call__(self, mapped: Tensor) -> Tensor:
        """f(z) with the regularised noise."""


@dataclass(frozen=True)
class Unregularised:
    """Leaves f(z) as it is."""

    evaluations: int = 0

    def __call__(self, mapped: Tensor) -> Tensor:
        return mapped


@dataclass(frozen=True)
class ImplicitStep:
    """One step z = f(z), ready to be solved.

    Attributes:
        f: takes latents (b, C, H, W) and their rows among the starts, (b,); returns f of them.
        starts: (paths * B, C, H, W): the B samples on the first path, then those on the second.
        criterion: says when a sample stops.
        tolerance: below which the criterion's number must fall.
        max_iterations: the most evaluations of a sample.
        lengthening: replaces f by g(z) = z + w (f(z) - z), which has the same fixed points.
        timestep: tau_i of the step.
        regularise: replaces f(z) by its value with the regularised noise.
    """

    f: Callable[[Tensor, Tensor], Tensor]
    starts: Tensor
    criterion: Criterion
    tolerance: float
    max_iterations: int
    lengthening: Lengthening = field(default_factory=Lengthening)
    timestep: float = 1000
    regularise: Regulariser = field(default_factory=Unregularised)


@dataclass(frozen=True)
class Solution:
    """A solver's result for one step.

    Attributes:
        z: (B, C, H, W), the z_i of each sample.
        iterations: int64 (B,), evaluations of f along one path.
        residuals: (K, B), norm(f(z_k) - z_k) / norm(f(z_k)) at each iteration; NaN where a sample
            was no longer iterated, or where the solver does not measure it.
        inter: (K, B), the inter-path residual likewise; NaN where one path was followed.
        bounds: (K, B), Banach's bound of the error after each iteration; infinite where it says
            nothing, NaN where there was none.
        contraction: (B,), estimate of the contraction constant q at the last iteration; NaN where
            unknown. 1 or above: not contractive here.
        stopped: bool (B,), whether the criterion was met.
        remaining: (B,), norm(f(z) - z) / norm(z) at the z returned; NaN where it was not evaluated.
    """

    z: Tensor
    iterations: Tensor
    residuals: Tensor
    inter: Tensor
    bounds: Tensor
    contraction: Tensor
    stopped: Tensor
    remaining: Tensor


@dataclass(frozen=True)
class Solver:
    """A registered solver of implicit steps, DDIM's or a rectified flow's.

    Attributes:
        solve: the function.
        cost: in network evaluations (NFE).
        source: where it was published.
        share: (low, high): steps i with low N < i < high N are solved, all others are plain
            ``ddim``.
        idle: the fields of ``InversionSettings`` that have no effect with it.
        regularises: whether it uses the step's ``regularise``.
        process: the only one whose steps it is made for; None for any.
    """

    solve: Callable[[ImplicitStep], Solution]
    cost: str
    source: str
    share: tuple[float, float] = (0.0, math.inf)
    idle: tuple[str, ...] = ()
    regularises: bool = False
    process: Process | None = None

    def solve_step(self, step: ImplicitStep, i: int, steps: int) -> Solution:
        """The solution of step i of N."""
        low, high = self.share
        return (self.solve if low * steps < i < high * steps else ddim)(step)


@dataclass(frozen=True)
class Sampler:
    """A registered sampler that solves no implicit step, and goes back by its own steps.

    Attributes:
        invert: takes the network, z_0 (B, C, H, W), the number of steps, and a function that is
            called with i after each; returns the inversion.
        denoise: takes that inversion and the way back; returns z_0.
        cost: in network evaluations (NFE).
        source: where it was published.
        process: the only one whose steps it is made for; None for any.
    """

    invert: Callable[[NoiseNetwork, Tensor, int, Callable[[int], None]], InversionResult]
    denoise: Callable[[InversionResult, WayBack], Tensor]
    cost: str
    source: str
    process: Process | None = None


class ExactSampler(Sampler):
    """A sampler that undoes its own steps exactly, whatever the network predicts."""


def ddim(step: ImplicitStep) -> Solution:
    """Plain DDIM inversion: f is applied once, to the start; nothing is solved or measured.

    On a rectified flow, too, it is one evaluation, at z_{i-1} and the noisier timestep.
    """
    rows = torch.arange(step.starts.shape[0] // step.criterion.paths, device=step.starts.device)
    start = step.starts[rows]
    z = step.lengthening(start, step.f(start, rows))
    unknown = z.new_full((len(rows),), torch.nan)
    return Solution(
        z,
        iterations=torch.ones_like(rows),
        residuals=unknown[None],
        inter=unknown[None],
        bounds=unknown[None],
        contraction=unknown,
        stopped=torch.zeros_like(rows, dtype=torch.bool),
        remaining=unknown,
    )


_EASYINV_KEPT = 0.5


def easyinv(step: ImplicitStep) -> Solution:
    """EasyInv: plain DDIM inversion, then z_i <- eta z_i + (1 - eta) z_{i-1}, eta = 0.5.

    The paper does so in the steps .05 N < i < .25 N only. The start stands for its z_{i-1}, which
    it is with the predictor ``previous``.

    Source: EasyInv, arXiv 2408.05159.
    """
    solution = ddim(step)
    start = step.starts[: solution.z.shape[0]]
    return replace(solution, z=torch.lerp(start, solution.z, _EASYINV_KEPT))


@dataclass(frozen=True)
class _Log:
    """The measurements of B samples over K iterations; its fields are those of ``Solution``."""

    iterations: Tensor
    residuals: Tensor
    inter: Tensor
    bounds: Tensor
    contraction: Tensor

    @classmethod
    def of(cls, latents: Tensor, iterations: int) -> _Log:
        """An empty log for latents (B, C, H, W)."""
        unmeasured = latents.new_full((iterations, latents.shape[0]), torch.nan)
        return cls(
            torch.zeros(latents.shape[0], dtype=torch.int64, device=latents.device),
            unmeasured,
            unmeasured.clone(),
            unmeasured.clone(),
            latents.new_full((latents.shape[0],), torch.nan),
        )

    def note(self, k: int, active: Tensor, measured: Measurement) -> None:
        """Keeps the measurement of iteration k for the samples at these positions."""
        self.iterations[active] += 1
        self.residuals[k, active], self.inter[k, active] = measured.intra, measured.inter
        self.bounds[k, active], self.contraction[active] = measured.bound, measured.contraction

    def solution(self, z: Tensor, stopped: Tensor, remaining: Tensor) -> Solution:
        """The solution of these measurements; arguments as the fields of ``Solution``."""
        return Solution(
            z,
            self.iterations,
            self.residuals,
            self.inter,
            self.bounds,
            self.contraction,
            stopped,
            remaining,
        )


@dataclass(frozen=True)
class UpdateRule:
    """An iterative solver.

    Attributes:
        update: takes the last evaluations, the latest one last; returns z_{k+1}.
        window: how many evaluations it is given.
        finish: takes a sample's last evaluations when it stops; returns the z that is the solution.
            None for the z_{k+1} of ``update``.
    """

    update: Callable[[Sequence[Evaluation]], Tensor]
    window: int = 2
    finish: Callable[[Sequence[Evaluation]], Tensor] | None = None

    def __call__(self, step: ImplicitStep) -> Solution:
        """Evaluates f and updates, until each sample's criterion is below the tolerance.

        An iteration's residual is that of z_k, at which f is evaluated. The solution is the update
        z_{k+1}, which is nearer where the rule converges; or the iterate of the smallest residual,
        see ``Criterion.evaluated``.
        """
        paths, criterion = step.criterion.paths, step.criterion
        z = step.starts.clone()
        batch = z.shape[0] // paths
        log = _Log.of(z[:batch], step.max_iterations)
        stopped = torch.zeros(batch, dtype=torch.bool, device=z.device)
        left = stopped.clone()
        best, best_residual = z[:batch].clone(), torch.full_like(log.contraction, torch.inf)
        first_rows = batch * torch.arange(paths, device=z.device)[:, None]
        now: Evaluation | None = None
        history: list[Evaluation] = []
        active = torch.arange(batch, device=z.device)
        for k in range(step.max_iterations):
            # 1. Evaluate f at the iterates of the samples that are still at work.
            rows = (first_rows + active).flatten()
            before, now = now, Evaluation(z[rows], step.f(z[rows], rows))
            lengthened = step.lengthening(now.latent, now.mapped)
            history = [*history[1 - self.window :], Evaluation(now.latent, lengthened)]
            # 2. Update them, and measure.
            z[rows] = self.update(history)
            measured = measure(now, before, z[rows], criterion, step.lengthening.doubt)
            log.note(k, active, measured)
            # 3. Which samples stop, and which iterate they return.
            stopped[active] = criterion.watched(measured) < step.tolerance
            if criterion.evaluated or criterion.retreats:
                nearer = measured.residual < best_residual[active]
                best[active] = _where(nearer, now.latent[: len(active)], best[active])
                best_residual[active] = torch.where(
                    nearer, measured.residual, best_residual[active]
                )
            if self.finish is not None:
                last = stopped[active] | (k == step.max_iterations - 1)
                z[rows] = _where(last.repeat(paths), self.finish(history), z[rows])
            if criterion.retreats and before is not None:
                grew = measured.intra > log.residuals[k - 1, active]
                left[active] = grew
                stopped[active] &= ~grew
                # The bound is of an iterate that is not kept.
                log.bounds[k, active] = torch.where(grew, torch.inf, measured.bound)
            # 4. Go on with the others. An accelerator is waited for here, and nowhere else.
            if k == step.max_iterations - 1:
                break
            kept = torch.nonzero(~(stopped | left)[active]).flatten()
            if len(kept) == 0:
                break
            if len(kept) < len(active):
                of_paths = (
                    len(active) * torch.arange(paths, device=z.device)[:, None] + kept
                ).flatten()
                now = now.rows(of_paths)
                history = [evaluation.rows(of_paths) for evaluation in history]
                active = active[kept]
        returns_best = left
        if criterion.evaluated:
            returns_best = left | stopped if self.finish is not None else torch.ones_like(stopped)
        z = _where(returns_best, best, z[:batch])
        remaining = torch.where(returns_best, best_residual, torch.nan)
        return log.solution(z, stopped, remaining)


def _where(chosen: Tensor, latents: Tensor, others: Tensor) -> Tensor:
    """The first latents for the chosen samples, the others elsewhere: (b,), (b, C, H, W) twice."""
    return torch.where(chosen[:, None, None, None], latents, others)


def _latest(evaluations: Sequence[Evaluation]) -> Tensor:
    return evaluations[-1].mapped


def _mean(evaluations: Sequence[Evaluation]) -> Tensor:
    return torch.stack([evaluation.mapped for evaluation in evaluations]).mean(0)


_DAMPING = 0.5


def _damped(evaluations: Sequence[Evaluation]) -> Tensor:
    return torch.lerp(evaluations[-1].latent, evaluations[-1].mapped, _DAMPING)


_MOMENTUM = 0.6


def _nesterov(evaluations: Sequence[Evaluation]) -> Tensor:
    latest = evaluations[-1].mapped
    if len(evaluations) == 1:
        return latest
    return latest + _MOMENTUM * (latest - evaluations[0].mapped)


_RIDGE = 1e-8


def anderson(evaluations: Sequence[Evaluation]) -> Tensor:
    """Anderson acceleration of type II over the last differences, for each sample by itself.

    With r_k = f(z_k) - z_k, and with the successive differences of r and of f as the columns of dR
    and dF, gamma = argmin norm(r_k - dR gamma) and z_{k+1} = f(z_k) - dF gamma. The normal
    equations are solved in float64, with a ridge of 1e-8 of their trace. At the first iteration,
    where the residual grew, and where they have no solution, z_{k+1} = f(z_k).

    Source: AIDI-A, arXiv 2309.04907; Walker and Ni, SIAM J. Numer. Anal. 49 (2011), type II.
    """
    latest = evaluations[-1]
    if len(evaluations) == 1:
        return latest.mapped
    # (window, rows, D); in float64, since differences of residuals are small against the latents.
    mapped = torch.stack([_double(evaluation.mapped) for evaluation in evaluations])
    residuals = mapped - torch.stack([_double(evaluation.latent) for evaluation in evaluations])
    dR, dF = (values.diff(dim=0).transpose(0, 1) for values in (residuals, mapped))
    gram = dR @ dR.transpose(1, 2)
    trace = gram.diagonal(dim1=1, dim2=2).sum(1)
    ridge = (_RIDGE * trace).clamp(min=torch.finfo(gram.dtype).tiny)
    unit = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    # Unlike ``solve``, it does not wait for an accelerator to say whether there is a solution.
    gamma, failed = torch.linalg.solve_ex(
        gram + ridge[:, None, None] * unit, dR @ residuals[-1][:, :, None]
    )
    accelerated = mapped[-1] - (gamma * dF).sum(1)
    grew = residuals[-1].norm(dim=1) > residuals[-2].norm(dim=1)
    following = torch.where((grew | (failed != 0))[:, None], mapped[-1], accelerated)
    return following.to(latest.mapped).view_as(latest.mapped)


def _double(rows: Tensor) -> Tensor:
    # Apple's GPUs have no float64.
    place = torch.device("cpu") if rows.device.type == "mps" else rows.device
    return rows.flatten(1).to(place, torch.float64)


# Settings without effect in a solver that does not iterate.
_UNITERATED = ("criterion", "max_iterations")

# ``dehaze.inversion.exact`` and ``.rectified`` add samplers, ``.renoise`` the regularised solver.
SOLVERS: Registry[Solver | Sampler] = Registry("solver")
SOLVERS.register(
    "ddim",
    Solver(
        ddim,
        "1 NFE a step",
        "Song et al. 2021, arXiv 2010.02502; Dhariwal and Nichol 2021, arXiv 2105.05233",
        idle=_UNITERATED,
    ),
)
SOLVERS.register(
    "easyinv",
    Solver(
        easyinv,
        "1 NFE a step",
        "EasyInv, arXiv 2408.05159",
        share=(0.05, 0.25),
        idle=_UNITERATED,
    ),
)
# z_{k+1} = f(z_k). Where f is linear of factor q the error shrinks by q an iteration.
SOLVERS.register(
    "fixed-point",
    Solver(UpdateRule(_latest), "1 NFE an iteration", "FPI, arXiv 2312.12540, section 3.2"),
)
# z_{k+1} = (1 - d) z_k + d f(z_k), d = 0.5. The error shrinks by 1 - d + d q an iteration: slower
# than Picard for 0 < q < 1, and still convergent for -3 < q < -1, where Picard is not.
SOLVERS.register(
    "damped",
    Solver(
        UpdateRule(_damped),
        "1 NFE an iteration",
        "Hong et al., On Exact Inversion of DPM-Solvers, CVPR 2024, algorithm 1",
    ),
)
# z_{k+1} = (f(z_k) + f(z_{k-1})) / 2. The error shrinks by the larger root of x^2 = q (x + 1) / 2
# an iteration.
SOLVERS.register(
    "averaged",
    Solver(UpdateRule(_mean), "1 NFE an iteration", "AIDI-E, arXiv 2309.04907"),
)
# Picard iterations z_{k+1} = f(z_k), then once, at the end, z = A_i z_{i-1} + B_i mean_j eps(z_j)
# over the last iterates, which is the mean of the f(z_j): f is affine in eps. The mean is never fed
# back. The published code averages the last two of ten.
for _name, _averaged in (("renoise", 2), ("renoise-3", 3)):
    SOLVERS.register(
        _name,
        Solver(
            UpdateRule(_latest, window=_averaged, finish=_mean),
            "1 NFE an iteration",
            "ReNoise, arXiv 2403.14602, without its noise regularisation",
        ),
    )
SOLVERS.register(
    "anderson",
    Solver(
        UpdateRule(anderson, window=4),
        "1 NFE an iteration",
        "AIDI-A, arXiv 2309.04907; Walker and Ni 2011, type II",
    ),
)
# z_{k+1} = f(z_k) + t (f(z_k) - f(z_{k-1})), t = 0.6. The error shrinks by the larger root of
# x^2 - (1 + t) q x + t q an iteration: faster than Picard's q for q > t, where Picard is slow. It
# takes |q| < 1 for q > 0 and q > -1 / (1 + 2 t).
SOLVERS.register(
    "nesterov",
    Solver(
        UpdateRule(_nesterov),
        "1 NFE an iteration",
        "Y. Nesterov, Soviet Mathematics Doklady 27 (1983), with constant momentum",
    ),
)


def idle_settings(name: str, *, checked: bool = False) -> tuple[str, ...]:
    """The fields of ``InversionSettings`` that have no effect with a solver.

    Args:
        name: of the solver.
        checked: whether the solution of every step is checked, and compared with the tolerance.

    Raises:
        UnknownNameError: there is no such solver.
    """
    solver = SOLVERS.get(name)
    if isinstance(solver, Sampler):
        return ("predictor", "relaxation", "criterion", "max_iterations", "tolerance", "checked")
    if "max_iterations" in solver.idle and not checked:
        return (*solver.idle, "tolerance")
    return solver.idle
