"""The density 1 - t of a rendered pair, and how well a map agrees with it.

All nine numbers of a cell obey I = J t + A (1 - t), so t is the slope of I over J.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def density_of(degraded: Tensor, clear: Tensor, radius: int = 2) -> Tensor:
    """Density 1 - t of the window around each position, from the latents of a pair.

    Args:
        degraded: latents of I, (B, C, h, w); C holds all numbers of a position's four cells.
        clear: of J, likewise.
        radius: half-width of the window, in positions; t is constant in it.

    Returns:
        float32 (B, h, w) in [0, 1]: 1 minus the least-squares slope of I over J, with an offset for
        each colour channel.
    """
    batch, channels, height, width = clear.shape
    size = 2 * radius + 1
    # Each of four cells has nine numbers, in which colour varies fastest.
    first, second = (
        x.reshape(batch, 3, 3, channels // 9, height, width) for x in (degraded, clear)
    )

    def mean(values: Tensor) -> Tensor:
        pooled = functional.avg_pool2d(
            values.mean((1, 3)), size, 1, radius, count_include_pad=False
        )
        return pooled[:, None, :, None]

    own = second - mean(second)
    covariance = mean((first - mean(first)) * own).sum((1, 2, 3))
    variance = mean(own * own).sum((1, 2, 3))
    return 1.0 - ((covariance + 1e-2) / (variance + 1e-2)).clamp(0.0, 1.0)


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's correlation (B,) of two maps (B, h, w)."""
    first, second = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (first, second))
    product = (first * second).sum(1)
    return product / (first.square().sum(1) * second.square().sum(1) + 1e-12).sqrt()
