"""Relaxations: longer updates of a solver, by an estimate of the slope of f.

After one evaluation a solver ends at f(start). Where the slope f' of f is known, a longer step ends
nearer to the fixed point, without another evaluation: z = start + w (f(start) - start) with
w = 1 / (1 - f'), which is Newton's step along a direction of that slope.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from dehaze.inversion.ddim import DDIMTable
from dehaze.inversion.schedule import Process, StepTable
from dehaze.registry import Registry


@dataclass(frozen=True)
class Relaxation:
    """A registered relaxation.

    Attributes:
        factors: takes the table, step i and the latents' shape (B, C, H, W); returns w, a number,
            or (H, W), a number for each wave of the latents' cosine transform. None for w = 1.
        source: where it was published.
        process: the only one whose steps it is made for; None for any.
    """

    factors: Callable[[StepTable, int, torch.Size], float | Tensor] | None
    source: str
    process: Process | None = None

    def of_step(self, table: StepTable, i: int, shape: torch.Size) -> Lengthening:
        """The lengthening of step i's updates."""
        return Lengthening(None if self.factors is None else self.factors(table, i, shape))


@dataclass(frozen=True)
class Lengthening:
    """The w of one step: a number, or (H, W), a number for each wave; None for 1."""

    factors: float | Tensor | None = None

    def __call__(self, start: Tensor, mapped: Tensor) -> Tensor:
        """z + w (f(z) - z), from z and f(z), (B, C, H, W) each."""
        if self.factors is None:
            # Not start + (mapped - start), which differs by rounding.
            return mapped
        residual = mapped - start
        if isinstance(self.factors, Tensor):
            return start + filtered(residual, self.factors)
        return start + self.factors * residual


# Half or twice this number reconstructs about as well, see docs/notes/inversion.md.
_SHARE = 1.0 / 16.0


def wiener(table: StepTable, i: int, shape: torch.Size) -> float:
    """w = 1 / (1 - f'), with the slope f' of f if the network were a Wiener filter.

    With x0hat = (z - s_i p) / c_i and J its derivative, f' = (B_i / s_i) (1 - c_i J). The best
    linear denoiser of a direction in which pictures have the variance V has
    J = k_i V / (k_i^2 V + s_i^2), k_i being the picture's weight in z_i. For DDIM, where
    k_i = c_i = sqrt(a_i), that is

        f' = (B_i / s_i) s_i^2 / (a_i V + s_i^2).

    It is 0 where the signal is far above the noise, and B_i / s_i where noise hides the signal. V =
    C H W / 16 is the variance of coarse structure, if 16 directions of the latents hold all of it.

    Source: this project; N. Wiener, Extrapolation, Interpolation, and Smoothing of Stationary Time
    Series (1949), for the filter.
    """
    _, B = table.coefficients(i)
    signal, sigma, variance = table.signal(i), table.sigma(i), shape[1:].numel() * _SHARE
    # s^2 + k^2 V - c k V, over k^2 V + s^2.
    unexplained = sigma**2 + signal * (signal - table.picture_scale(i)) * variance
    slope = (B / sigma) * unexplained / (signal**2 * variance + sigma**2)
    return 1.0 / (1.0 - slope)


# Fitted on the bundled network with rendered haze over BSDS500's validation photos, see
# docs/notes/inversion.md. c(0) of ``spectral``:
_COARSEST = 0.8
# How much c falls over half the latents' Nyquist frequency: by the factor 1 / (1 + _FALL).
_FALL = 0.8
# The ratio r of noise to signal at which noise begins to hide every structure.
_DROWNED = 100.0
# The variance V of the finest waves.
_FLOOR = 0.07
# The exponent of step 1's factors.
_FIRST_STEP = 0.2


def spectral(table: StepTable, i: int, shape: torch.Size) -> Tensor:
    """w = 1 / (1 - f') for each spatial frequency of the latents, fitted on the bundled network.

    As in ``wiener``, f' = (B_i / s_i) (1 - sqrt(a_i) J) = (B_i / s_i) / (1 + k). A Wiener filter
    has k = a_i V / s_i^2. The network predicts coarse structures better. With r = s_i^2 / a_i, and
    the frequency q in units of the latents' Nyquist frequency,

        k = c(q) / (1 + sqrt(r / 100)) + 0.07 / r,    c(q) = 0.8 / (1 + 0.8 q / 0.5).

    The first term is for structures, which the network recognises until noise hides them. The
    second is for the finest waves, of variance 0.07. At step 1, which starts far from its solution,
    the factors are w^0.2.

    Raises:
        TypeError: the table is of another process than DDIM's: nothing was fitted on a flow.

    Source: this project.
    """
    if not isinstance(table, DDIMTable):
        raise TypeError("spectral was fitted on DDIM's steps")
    _, B = table.coefficients(i)
    q = frequencies(*shape[-2:])
    noise = table.sigma(i) ** 2 / table.alphas[i]
    coarse = _COARSEST / (1.0 + _FALL * q / 0.5)
    known = coarse / (1.0 + math.sqrt(noise / _DROWNED)) + _FLOOR / noise
    factors = 1.0 / (1.0 - (B / table.sigma(i)) / (1.0 + known))
    return factors**_FIRST_STEP if i == 1 else factors


RELAXATIONS: Registry[Relaxation] = Registry("relaxation")
RELAXATIONS.register("none", Relaxation(None, "as each solver's own source has it"))
RELAXATIONS.register("wiener", Relaxation(wiener, "this project"))
RELAXATIONS.register("spectral", Relaxation(spectral, "this project", process="ddim"))


@lru_cache(maxsize=16)
def cosines(size: int) -> Tensor:
    """The orthonormal cosine transform of type II: float64 (size, size), a row for each frequency.

    Source: N. Ahmed, T. Natarajan and K. Rao, Discrete Cosine Transform (1974).
    """
    waves = torch.arange(size, dtype=torch.float64)
    rows = torch.cos(math.pi / size * waves[:, None] * (waves + 0.5)) * math.sqrt(2.0 / size)
    rows[0] /= math.sqrt(2.0)
    return rows


# Few sizes, on few devices: a photo's height and width, and those of other photos in a folder.
@lru_cache(maxsize=16)
def _cosines_on(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """``cosines`` on a device, copied there once."""
    return cosines(size).to(device, dtype)


def frequencies(height: int, width: int) -> Tensor:
    """The frequency of each wave, in units of the Nyquist frequency: (height, width)."""
    return torch.hypot(torch.arange(height)[:, None] / height, torch.arange(width)[None] / width)


def transformed(latents: Tensor) -> Tensor:
    """The cosine transform of each channel, (B, C, H, W)."""
    rows, columns = _cosines_like(latents)
    return rows @ latents @ columns.T


def filtered(latents: Tensor, factors: Tensor) -> Tensor:
    """Latents (B, C, H, W) with each wave multiplied by its factor, (H, W) or (B, 1, H, W)."""
    rows, columns = _cosines_like(latents)
    return rows.T @ (factors.to(latents) * transformed(latents)) @ columns


def _cosines_like(latents: Tensor) -> tuple[Tensor, Tensor]:
    """The transforms of a column and of a row of latents, on their device and in their type."""
    height, width = latents.shape[-2:]
    return (
        _cosines_on(height, latents.device, latents.dtype),
        _cosines_on(width, latents.device, latents.dtype),
    )
