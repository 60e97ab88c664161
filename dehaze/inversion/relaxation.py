"""How far the first update of a solver goes: from what the schedule says of the map's slope.

A solver that stops after one evaluation ends at f(start). Where the slope of f is known, a longer
step ends nearer to the fixed point, at no evaluation: z = start + w (f(start) - start) with
w = 1 / (1 - f') is Newton's step along a direction of slope f'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dehaze.inversion.schedule import DDIMTable

Factor = Callable[[DDIMTable, int, int], float]
"""(table, step i, C H W, the number of a latent's values) -> w."""


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


def unrelaxed(table: DDIMTable, i: int, size: int) -> float:
    """w = 1: the update as the solver makes it."""
    return 1.0


# Measured: with a half and a double of it reconstructions are much the same, see docs/inversion.md.
_SHARE = 1.0 / 16.0


def wiener(table: DDIMTable, i: int, size: int) -> float:
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
    slope = (B / sigma) * sigma**2 / (alpha * size * _SHARE + sigma**2)
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
