"""Errors of a method's attention map, transmission and airlight, where the truth is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TransmissionComparison:
    """How far an estimated transmission map is from the truth.

    Attributes:
        mean_absolute_error: mean of |estimate - truth|, in [0, 1].
        root_mean_square_error: root of the mean of (estimate - truth)^2, in [0, 1].
        bias: mean of estimate - truth, in [-1, 1]; above 0, the haze density is underestimated.
    """

    mean_absolute_error: float
    root_mean_square_error: float
    bias: float


@dataclass(frozen=True)
class AirlightComparison:
    """How far an estimated airlight is from the truth.

    Attributes:
        mean_absolute_error: mean over the channels of |estimate - truth|, in [0, 1].
        angle: between the two colours, in degrees; 0 where only the brightness is wrong.
    """

    mean_absolute_error: float
    angle: float


def density_correlation(attention: NDArray[Any], transmission: NDArray[Any]) -> float:
    """Spearman's rank correlation between a haze attention map and the density 1 - t.

    Ties get their mean rank.

    Args:
        attention: (H, W), in any range: only the order of its values counts.
        transmission: t, (H, W) in [0, 1].

    Returns:
        In [-1, 1]; 1 if the map ranks the pixels by their haze density, NaN if either is constant.

    Raises:
        ValueError: the shapes differ.

    Source: Spearman, "The Proof and Measurement of Association between Two Things", 1904.
    """
    _same_shape(attention, transmission)
    ranks = _centred_ranks(attention)
    density_ranks = _centred_ranks(1.0 - transmission.astype(np.float64))
    norm = math.sqrt(float(ranks @ ranks) * float(density_ranks @ density_ranks))
    return float(ranks @ density_ranks) / norm if norm > 0 else math.nan


def compare_transmissions(estimate: NDArray[Any], truth: NDArray[Any]) -> TransmissionComparison:
    """Compare two transmission maps pixel by pixel.

    Args:
        estimate: (H, W) in [0, 1].
        truth: (H, W) in [0, 1].

    Raises:
        ValueError: the shapes differ.
    """
    _same_shape(estimate, truth)
    difference = estimate.astype(np.float64) - truth.astype(np.float64)
    return TransmissionComparison(
        mean_absolute_error=float(np.abs(difference).mean()),
        root_mean_square_error=math.sqrt(float(np.square(difference).mean())),
        bias=float(difference.mean()),
    )


def compare_airlights(estimate: NDArray[Any], truth: NDArray[Any]) -> AirlightComparison:
    """Compare two airlights.

    Args:
        estimate: (3,) RGB in [0, 1].
        truth: (3,) RGB in [0, 1].

    Returns:
        The comparison; its angle is NaN where either colour is black.

    Raises:
        ValueError: not three channels each.
    """
    if estimate.shape != (3,) or truth.shape != (3,):
        raise ValueError(f"an airlight has shape (3,), got {estimate.shape} and {truth.shape}")
    first, second = estimate.astype(np.float64), truth.astype(np.float64)
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    # atan2 of cross and dot product stays exact at small angles, where arccos does not.
    sine = float(np.linalg.norm(np.cross(first, second)))
    angle = math.degrees(math.atan2(sine, float(first @ second))) if norm > 0 else math.nan
    return AirlightComparison(float(np.abs(first - second).mean()), angle)


def _centred_ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean_ranks = np.cumsum(counts) - (counts - 1) / 2
    ranks = mean_ranks[inverse.ravel()]
    return np.asarray(ranks - ranks.mean(), dtype=np.float64)


def _same_shape(first: NDArray[Any], second: NDArray[Any]) -> None:
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(f"expected two maps of one shape, got {first.shape} and {second.shape}")
