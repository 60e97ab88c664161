"""How far the first update of a solver goes: from what the schedule says of the map's slope.

A solver that stops after one evaluation ends at f(start). Where the slope of f is known, a longer
step ends nearer to the fixed point, at no evaluation: z = start + w (f(start) - start) with
w = 1 / (1 - f') is Newton's step along a direction of slope f'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dehaze.inversion.schedule import DDIMTable

Factor = Callable[[DDIMTable, int, Tensor], Tensor]
"""(table, step i, z_0 (B, C, H, W)) -> w, (B,)."""


@dataclass(frozen=True)
class Relaxation:
    """A registered relaxation.

    Attributes:
        name: as it is called in settings.
        factor: the function.
        source: where it was published.
    """

    name: str
    factor: Factor
    source: str


def unrelaxed(table: DDIMTable, i: int, clean: Tensor) -> Tensor:
    """w = 1: the update as the solver makes it."""
    return torch.ones(clean.shape[0], dtype=clean.dtype, device=clean.device)


# Share of the picture's energy in the direction that w is made for. Measured: a half and a double
# of it reconstruct almost alike, see docs/inversion.md.
_SHARE = 1.0 / 8.0


def wiener(table: DDIMTable, i: int, clean: Tensor) -> Tensor:
    """w = 1 / (1 - f'), with f' as a Wiener filter in the network's place would have it.

    With x0hat = (z - s_i eps) / sqrt(a_i) and J its derivative, f' = (B_i / s_i) (1 - sqrt(a_i) J).
    The best linear denoiser of a direction in which pictures have the variance V has
    J = sqrt(a_i) V / (a_i V + s_i^2), so that

        f' = (B_i / s_i) s_i^2 / (a_i V + s_i^2).

    It is 0 where the signal stands above the noise, and B_i / s_i where it has drowned. V is a
    share of the sample's own energy, norm(z_0)^2 / 8: what a coarse structure holds, which drowns
    last and which errors of the noisy steps come back in.

    Source: this project; N. Wiener, Extrapolation, Interpolation, and Smoothing of Stationary Time
    Series (1949), for the filter.
    """
    A, B = table.coefficients(i)
    alpha, sigma = table.alphas[i], table.sigma(i)
    energy = clean.flatten(1).square().sum(1) * _SHARE
    slope = (B / sigma) * sigma**2 / (alpha * energy + sigma**2)
    return 1.0 / (1.0 - slope)


RELAXATIONS: dict[str, Relaxation] = {
    relaxation.name: relaxation
    for relaxation in (
        Relaxation("none", unrelaxed, "as each solver's own source has it"),
        Relaxation("wiener", wiener, "this project"),
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
