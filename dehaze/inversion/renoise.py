"""ReNoise as its published code runs: which predictions it averages, and how it regularises them.

Source: ReNoise, arXiv 2403.14602, and its code (``renoise_inversion.py``), whose losses are those
of pix2pix-zero, arXiv 2302.03027.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from dehaze.inversion.criteria import root_mean_square
from dehaze.inversion.solvers import SOLVERS, ImplicitStep, Solution, Solver

# Weights and repeats of the published configuration.
_DIVERGENCE_WEIGHT, _CORRELATION_WEIGHT = 0.065, 20.0
_ROUNDS, _SHIFTS = 4, 5
_STEEPEST = 100.0
_PATCH, _COARSEST = 4, 8
_TINY = 1e-6
# Below this timestep, of a thousand, at most six evaluations are made, and the first five averaged.
_FIRST_STEPS, _FEW, _FIRST_MEAN = 250, 6, 5
_LAST_MEAN = 2


def renoise_regularised(step: ImplicitStep) -> Solution:
    """Picard iterations; each prediction is regularised, from the first one that is averaged.

    At the end z_i is made once, from the regularised mean of the last two predictions. The
    published configuration makes ten. Below timestep 250 at most six are made, and the first five
    are averaged. Nothing stops early.
    """
    rows = torch.arange(step.starts.shape[0] // step.criterion.paths, device=step.starts.device)
    z = step.starts[rows]
    if step.timestep < _FIRST_STEPS:
        evaluations = min(step.max_iterations, _FEW)
        averaged = range(min(evaluations, _FIRST_MEAN))
    else:
        evaluations = step.max_iterations
        averaged = range(max(0, evaluations - _LAST_MEAN), evaluations)
    kept = []
    residuals = z.new_full((step.max_iterations, len(rows)), torch.nan)
    for k in range(evaluations):
        mapped = step.f(z, rows)
        residuals[k] = root_mean_square(mapped - z) / root_mean_square(mapped).clamp(min=1e-12)
        if k in averaged:
            kept.append(mapped)
        z = step.regularise(mapped) if k >= averaged.start else mapped
    # f is affine in the noise: the mean of the f(z_k) is that of the predictions.
    z = step.regularise(torch.stack(kept).mean(0))
    unknown = z.new_full((len(rows),), torch.nan)
    return Solution(
        z,
        iterations=torch.full_like(rows, evaluations + step.regularise.evaluations),
        residuals=residuals,
        inter=unknown[None],
        bounds=unknown[None],
        contraction=unknown,
        stopped=torch.zeros_like(rows, dtype=torch.bool),
        remaining=unknown,
    )


def regularised(noise: Tensor, reference: Tensor, generator: torch.Generator) -> Tensor:
    """A predicted noise, made more similar to a network's prediction for white noise.

    Four rounds of one gradient step of ``patch_divergence`` and five of ``autocorrelation``.

    Args:
        noise: eps at the iterate, (B, C, H, W).
        reference: eps at sqrt(a_i) z_0 + s_i n, with n normal.
        generator: of the shifts; the samples of a batch share them.

    Raises:
        ValueError: latents of less than 8 on a side, or values that run away: the weights are those
            of latents of 64 x 64 whose noise has the variance 1.
    """
    if min(noise.shape[2:]) < _COARSEST:
        raise ValueError(
            f"ReNoise's regularisation needs latents of {_COARSEST} x {_COARSEST} or more, not "
            f"{noise.shape[2]} x {noise.shape[3]}: take the solver renoise"
        )
    for _ in range(_ROUNDS):
        slope = _gradient(noise, lambda each: patch_divergence(each, reference))
        noise = noise - _DIVERGENCE_WEIGHT * slope.clamp(-_STEEPEST, _STEEPEST)
        for _ in range(_SHIFTS):
            slope = _gradient(noise, lambda each: autocorrelation(each, generator))
            noise = noise - _CORRELATION_WEIGHT / _SHIFTS * slope
    if not bool(noise.isfinite().all()):
        raise ValueError("ReNoise's regularisation does not converge here: take the solver renoise")
    return noise


def patch_divergence(noise: Tensor, reference: Tensor) -> Tensor:
    """Twice the divergence of the normal distributions of patches of 4 x 4, summed.

    abs(log(v_1 / v_0) + (v_0 + (m_0 - m_1)^2) / v_1 - 1), with mean m and variance v of each
    channel's patch: 0 of the noise, 1 of the reference.
    """
    (mean, variance), (other_mean, other) = map(_moments, (noise, reference))
    ratio = (variance + (mean - other_mean).square()) / (other + _TINY)
    return (torch.log((other + _TINY) / (variance + _TINY)) + ratio - 1.0).abs().sum()


def _moments(latents: Tensor) -> tuple[Tensor, Tensor]:
    patches = latents.unfold(2, _PATCH, _PATCH).unfold(3, _PATCH, _PATCH).flatten(-2)
    return patches.mean(-1), patches.var(-1)


def autocorrelation(noise: Tensor, generator: torch.Generator) -> Tensor:
    """The squared mean product of each channel with itself shifted, down and across, summed.

    It is computed on the latents and on each halving of them, down to a side of at most eight. A
    shift, from 0 to half the height, is drawn for each channel and size.
    """
    total = noise.new_zeros(())
    for channel in noise.split(1, dim=1):
        while True:
            half = max(1, channel.shape[2] // 2)
            shift = int(torch.randint(0, half, (1,), generator=generator))
            for side in (2, 3):
                products = channel * channel.roll(shift, side)
                total = total + products.mean((1, 2, 3)).square().sum()
            if min(channel.shape[2:]) <= _COARSEST:
                break
            channel = avg_pool2d(channel, 2)
    return total


def _gradient(noise: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    with torch.enable_grad():
        variable = noise.detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss(variable), variable)
    return slope


SOLVERS.register(
    "renoise-regularised",
    Solver(
        renoise_regularised,
        "1 NFE an iteration, and 1 a step",
        "ReNoise, arXiv 2403.14602, as its published code runs",
        idle=("criterion", "relaxation"),
        regularises=True,
        process="ddim",
    ),
)
