"""The cosine transform of latents, and how much of an error at a step is seen in the picture."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from dehaze.inversion.schedule import DDIMTable


@lru_cache(maxsize=16)
def cosines(size: int) -> Tensor:
    """The orthonormal cosine transform of type II: float64 (size, size), a row a frequency.

    Source: N. Ahmed, T. Natarajan and K. Rao, Discrete Cosine Transform (1974).
    """
    waves = torch.arange(size, dtype=torch.float64)
    rows = torch.cos(math.pi / size * waves[:, None] * (waves + 0.5)) * math.sqrt(2.0 / size)
    rows[0] /= math.sqrt(2.0)
    return rows


def frequencies(height: int, width: int) -> Tensor:
    """Of each wave of the transform, in cycles of the Nyquist frequency: (height, width)."""
    return torch.hypot(torch.arange(height)[:, None] / height, torch.arange(width)[None] / width)


def filtered(latents: Tensor, factors: Tensor) -> Tensor:
    """Each wave of (B, C, H, W) times its factor, (H, W) or (B, 1, H, W)."""
    rows, columns = (cosines(size).to(latents) for size in latents.shape[-2:])
    return rows.T @ (factors.to(latents) * transformed(latents)) @ columns


def transformed(latents: Tensor) -> Tensor:
    """The cosine transform of each channel, (B, C, H, W)."""
    rows, columns = (cosines(size).to(latents) for size in latents.shape[-2:])
    return rows @ latents @ columns.T


def power(latents: Tensor) -> Tensor:
    """Mean square of the waves of about the same length, of each sample: (B, 1, H, W).

    Waves are sorted by their frequency in cycles of the longer side, rounded. The mean of the
    picture counts to the longest waves: that it is 0 does not say that errors of it are not seen.
    """
    height, width = latents.shape[-2:]
    lengths = (frequencies(height, width) * max(height, width)).round().clamp(min=1.0)
    ring = lengths.long().flatten().to(latents.device)
    squares = transformed(latents).square().mean(1).flatten(1)
    sums = squares.new_zeros(len(squares), int(ring.max()) + 1).index_add_(1, ring, squares)
    means = sums / torch.bincount(ring).clamp(min=1)
    return means[:, ring].view(-1, 1, height, width)


def gain_to_picture(table: DDIMTable, i: int, clean: Tensor) -> Tensor:
    """By how much an error of z_i is expected to grow until z_0, on DDIM's way back.

    Along the deterministic path a direction in which pictures have the variance V keeps its
    quantile: z_0 / sqrt(V) = z_i / sqrt(a_i V + s_i^2), if it is Gaussian. An error of z_i is then
    multiplied by sqrt(V / (a_i V + s_i^2)). V is the picture's own ``power``.

    Args:
        table: the schedule.
        i: the step.
        clean: z_0, (B, C, H, W).

    Returns:
        of each wave, (B, 1, H, W).

    Source: this project; Song et al., arXiv 2011.13456, for the path.
    """
    variance = power(clean)
    return (variance / (table.alphas[i] * variance + table.sigma(i) ** 2)).sqrt()
