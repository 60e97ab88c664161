"""Relaxations: longer updates of a solver, by an estimate of the slope of f.

After one evaluation a solver ends at f(start). Where the slope f' of f is known, a longer step ends
nearer to the fixed point, without another evaluation: z = start + w (f(start) - start) with
w = 1 / (1 - f'), which is Newton's step along a direction of that slope.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dehaze.inversion.schedule import Process, StepTable
from dehaze.registry import Registry


@dataclass(frozen=True)
class Slope:
    """An estimate of f' at one step.

    Attributes:
        value: f', below 1.
        uncertainty: the absolute derivative of f' by ln k, where k is what the network knows of the
            picture: see ``fitted``, and V in ``wiener``.
    """

    value: float
    uncertainty: float


@dataclass(frozen=True)
class Lengthening:
    """How the updates of one step are lengthened: z + w (f(z) - z).

    Attributes:
        factor: w.
        doubt: norm of the updated latent's expected error over norm(f(z) - z). It is 1 where
            nothing is known of the slope.
    """

    factor: float = 1.0
    doubt: float = 1.0

    def __call__(self, start: Tensor, mapped: Tensor) -> Tensor:
        """z + w (f(z) - z), from z and f(z), (B, C, H, W) each."""
        if self.factor == 1.0:
            # Not start + (mapped - start), which differs by rounding.
            return mapped
        return start + self.factor * (mapped - start)


@dataclass(frozen=True)
class Relaxation:
    """A registered relaxation.

    Attributes:
        slope: takes the table, step i and the latents' shape (B, C, H, W); None for no relaxation.
        source: where it was published.
        process: the only one whose steps it is made for; None for any.
    """

    slope: Callable[[StepTable, int, torch.Size], Slope] | None
    source: str
    process: Process | None = None

    def of_step(self, table: StepTable, i: int, shape: torch.Size) -> Lengthening:
        """The lengthening of step i's updates, w = 1 / (1 - f').

        An error of f' moves the update by w^2 times that error, times f(z) - z.
        """
        if self.slope is None:
            return Lengthening()
        slope = self.slope(table, i, shape)
        factor = 1.0 / (1.0 - slope.value)
        return Lengthening(factor, factor**2 * slope.uncertainty)


# Half or twice this number reconstructs about as well, see docs/notes/inversion.md.
_SHARE = 1.0 / 16.0


def wiener(table: StepTable, i: int, shape: torch.Size) -> Slope:
    """The slope f' of f if the network were a Wiener filter.

    With x0hat = (z - s_i p) / c_i and J its derivative, f' = (B_i / s_i) (1 - c_i J). The best
    linear denoiser of a direction in which pictures have the variance V has
    J = k_i V / (k_i^2 V + s_i^2), k_i being the picture's weight in z_i. For DDIM, where
    k_i = c_i = sqrt(a_i), that is

        f' = (B_i / s_i) s_i^2 / (a_i V + s_i^2).

    It is 0 where the signal is far above the noise, and B_i / s_i where noise hides the signal. V =
    C H W / 16 is the variance of coarse structure, if 16 directions of the latents hold all of it.
    In pure noise, as at a flow's last step, a filter knows nothing: the uncertainty is 0 there.

    Source: this project; N. Wiener, Extrapolation, Interpolation, and Smoothing of Stationary Time
    Series (1949), for the filter.
    """
    _, B = table.coefficients(i)
    signal, sigma, variance = table.signal(i), table.sigma(i), shape[1:].numel() * _SHARE
    # c_i k_i V / (k_i^2 V + s_i^2), which is c_i J.
    total = signal**2 * variance + sigma**2
    explained = signal * table.picture_scale(i) * variance / total
    # Its derivative by ln V is itself times s_i^2 / (k_i^2 V + s_i^2).
    ratio = B / sigma
    return Slope(ratio * (1.0 - explained), abs(ratio) * explained * sigma**2 / total)


# Fitted on the bundled network with rendered haze over BSDS500's validation photos, see
# docs/notes/inversion.md: k at equal weights of picture and noise, and its exponent.
_KNOWN_AT_EQUAL_WEIGHTS = 2.32
_EXPONENT = 0.55


def fitted(table: StepTable, i: int, shape: torch.Size) -> Slope:
    """The slope f' that was fitted on the bundled network.

    As in ``wiener``, f' = (B_i / s_i) (1 - sqrt(a_i) J) = (B_i / s_i) / (1 + k). A Wiener filter
    has k = V a_i / s_i^2. The network still recognises structures where noise hides them from a
    filter, so k falls more slowly:

        k = 2.32 (a_i / s_i^2)^0.55.

    Raises:
        TypeError: the table is of another process than DDIM's: nothing was fitted on a flow.

    Source: this project.
    """
    if table.process != "ddim":
        raise TypeError("the slope was fitted on DDIM's steps")
    _, B = table.coefficients(i)
    ratio = B / table.sigma(i)
    k = _KNOWN_AT_EQUAL_WEIGHTS * (table.signal(i) / table.sigma(i)) ** (2.0 * _EXPONENT)
    return Slope(ratio / (1.0 + k), ratio * k / (1.0 + k) ** 2)


RELAXATIONS: Registry[Relaxation] = Registry("relaxation")
RELAXATIONS.register("none", Relaxation(None, "as each solver's own source has it"))
RELAXATIONS.register("wiener", Relaxation(wiener, "this project"))
RELAXATIONS.register("fitted", Relaxation(fitted, "this project", process="ddim"))
