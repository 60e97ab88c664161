"""How far a solver's updates go: from what the schedule says of the map's slope.

A solver that stops after one evaluation ends at f(start). Where the slope of f is known, a longer
step ends nearer to the fixed point, at no evaluation: z = start + w (f(start) - start) with
w = 1 / (1 - f') is Newton's step along a direction of slope f'.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dehaze.inversion.schedule import DDIMTable
from dehaze.inversion.spectrum import filtered, frequencies

Update = Callable[[Tensor], Tensor]
"""From f(z) - z, (B, C, H, W), to the update, alike."""

Lengthening = Callable[[DDIMTable, int, torch.Size], Update]
"""(table, step i, the latents' (B, C, H, W)) -> what lengthens the updates of that step."""


@dataclass(frozen=True)
class Relaxation:
    """A registered relaxation.

    Attributes:
        name: as it is called in settings.
        lengthen: the function.
        source: where it was published.
    """

    name: str
    lengthen: Lengthening
    source: str


def as_it_is(residual: Tensor) -> Tensor:
    """w = 1."""
    return residual


def unrelaxed(table: DDIMTable, i: int, shape: torch.Size) -> Update:
    """w = 1: the update as the solver makes it."""
    return as_it_is


# Measured: with a half and a double of it reconstructions are much the same, see docs/inversion.md.
_SHARE = 1.0 / 16.0


def wiener(table: DDIMTable, i: int, shape: torch.Size) -> Update:
    """w = 1 / (1 - f'), with f' as a Wiener filter in the network's place would have it.

    With x0hat = (z - s_i eps) / sqrt(a_i) and J its derivative, f' = (B_i / s_i) (1 - sqrt(a_i) J).
    The best linear denoiser of a direction in which pictures have the variance V has
    J = sqrt(a_i) V / (a_i V + s_i^2), so that

        f' = (B_i / s_i) s_i^2 / (a_i V + s_i^2).

    It is 0 where the signal stands above the noise, and B_i / s_i where it has drowned. Of latents
    of C H W values and variance 1 one direction is taken to hold V = C H W / 16: that of a coarse
    structure, which drowns last, and in which errors of the noisy steps come back.

    Source: this project; N. Wiener, Extrapolation, Interpolation, and Smoothing of Stationary Time
    Series (1949), for the filter.
    """
    _, B = table.coefficients(i)
    alpha, sigma = table.alphas[i], table.sigma(i)
    slope = (B / sigma) * sigma**2 / (alpha * shape[1:].numel() * _SHARE + sigma**2)
    return lambda residual: residual / (1.0 - slope)


# Measured on rendered haze over BSDS500's validation photos, see docs/inversion.md: what the
# bundled network knows of the coarsest waves and of those at _KNEE, and where noise drowns both.
_COARSEST = 4.0
_AT_KNEE = 0.8
_KNEE = 0.25
_DROWNED = 100.0
_FLOOR = 0.05
_FAR = 0.25


def spectral(table: DDIMTable, i: int, shape: torch.Size) -> Update:
    """w = 1 / (1 - f') for each spatial frequency, in the cosine transform of the latents.

    As in ``wiener``, f' = (B_i / s_i) (1 - sqrt(a_i) J) = (B_i / s_i) / (1 + k), where k = a_i V /
    s_i^2 if the network is a Wiener filter. A network knows more than that of coarse structures:
    with r = s_i^2 / a_i and the frequency q, in cycles of the latents' Nyquist frequency,

        k = c(q) / (1 + sqrt(r / 100)) + 0.05 / r,    c(q) = 4 / (1 + 5 q / 0.25).

    The first term says that structures are recognised under any noise until they drown, the
    second is the variance V of the finest ones. Under guidance the slope is taken to be the same.
    Step 1 starts from the picture itself, so far from its solution that the slopes there hold for
    little of the way: its factors are w^(1/4).

    Source: this project.
    """
    _, B = table.coefficients(i)
    q = frequencies(*shape[-2:])
    noise = table.sigma(i) ** 2 / table.alphas[i]
    coarse = _COARSEST / (1.0 + (_COARSEST / _AT_KNEE) * q / _KNEE)
    known = coarse / (1.0 + math.sqrt(noise / _DROWNED)) + _FLOOR / noise
    factors = 1.0 / (1.0 - (B / table.sigma(i)) / (1.0 + known))
    if i == 1:
        factors = factors**_FAR
    return lambda residual: filtered(residual, factors)


RELAXATIONS: dict[str, Relaxation] = {
    relaxation.name: relaxation
    for relaxation in (
        Relaxation("none", unrelaxed, "as each solver's own source has it"),
        Relaxation("wiener", wiener, "this project"),
        Relaxation("spectral", spectral, "this project"),
    )
}


def list_relaxations() -> list[str]:
    """The names of all relaxations."""
    return list(RELAXATIONS)


def get_relaxation(name: str) -> Relaxation:
    """The relaxation of that name.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    if name not in RELAXATIONS:
        raise ValueError(f"unknown relaxation {name!r}: there are {', '.join(RELAXATIONS)}")
    return RELAXATIONS[name]
