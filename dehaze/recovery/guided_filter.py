"""The guided filter: smooths one picture so that its edges are those of another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def guided_coefficients(
    guide: Array, target: Array, radius: int, epsilon: float
) -> tuple[Array, Array]:
    """Slope and intercept, per window, of the best affine map from guide to target.

    In each window of side 2 r + 1, a = (cov(guide) + epsilon 1)^-1 cov(guide, target) and
    b = mean(target) - a mean(guide); a and b are then averaged over the windows of each pixel.

    Args:
        guide: float32 (H, W) or (H, W, C).
        target: float32 (H, W).
        radius: r in pixels, at least 1.
        epsilon: regularisation, in squared units of the guide. A hazy guide varies little: 1e-4.

    Returns:
        slopes, float32 (H, W, C) (C = 1 for a grey guide), and intercepts, float32 (H, W).

    Raises:
        ValueError: guide and target are of different size, or the radius is below 1.

    Source: He, Sun and Tang, "Guided Image Filtering", TPAMI 2013, eqs. 5, 6 and 14, 15.
    """
    if guide.shape[:2] != target.shape:
        raise ValueError(f"guide is {guide.shape[:2]} and target is {target.shape}")
    if radius < 1:
        raise ValueError(f"radius is {radius}: it must be at least 1")
    channels = [
        np.ascontiguousarray(plane, dtype=np.float64)
        for plane in np.moveaxis(np.atleast_3d(guide), 2, 0)
    ]
    target64 = target.astype(np.float64)
    mean_target = box_mean(target64, radius)
    means = [box_mean(channel, radius) for channel in channels]
    crossed, covariance = [], []
    for row, channel in enumerate(channels):
        crossed.append(box_mean(channel * target64, radius) - means[row] * mean_target)
        below = [
            box_mean(channel * channels[column], radius) - means[row] * means[column]
            for column in range(row + 1)
        ]
        below[row] += epsilon
        covariance.append(below)
    slopes = solve_positive(covariance, crossed)
    intercepts = mean_target
    for slope, mean in zip(slopes, means, strict=True):
        intercepts -= slope * mean
    averaged = [box_mean(slope, radius).astype(np.float32) for slope in slopes]
    return np.stack(averaged, axis=2), box_mean(intercepts, radius).astype(np.float32)


def solve_positive(
    matrix: Sequence[Sequence[NDArray[np.float64]]], right: Sequence[NDArray[np.float64]]
) -> list[NDArray[np.float64]]:
    """Solves a small positive definite system at each pixel, by Cholesky's method (L D L^T).

    Each entry of the matrix is a whole picture, so each operation is one over the picture. That is
    faster than ``np.linalg.solve`` with a matrix for each pixel.

    Args:
        matrix: the rows' entries up to the diagonal: ``matrix[i][j]``, j <= i, of one shape each.
        right: the right side's entries, of that shape.

    Returns:
        the solution's entries.
    """
    size = len(right)
    lower: list[list[NDArray[np.float64]]] = [[] for _ in range(size)]
    pivots: list[NDArray[np.float64]] = []
    solution: list[NDArray[np.float64]] = []
    for i in range(size):
        scaled: list[NDArray[np.float64]] = []
        for j in range(i):
            entry = matrix[i][j].copy()
            for k in range(j):
                entry -= scaled[k] * lower[j][k]
            scaled.append(entry)
        lower[i] = [entry / pivot for entry, pivot in zip(scaled, pivots, strict=True)]
        pivot, value = matrix[i][i].copy(), right[i].copy()
        for j in range(i):
            pivot -= scaled[j] * lower[i][j]
            value -= lower[i][j] * solution[j]
        pivots.append(pivot)
        solution.append(value)
    for i in reversed(range(size)):
        solution[i] /= pivots[i]
        for k in range(i + 1, size):
            solution[i] -= lower[k][i] * solution[k]
    return solution


def guided_filter(
    guide: Array, target: Array, radius: int, epsilon: float, subsample: int = 1
) -> Array:
    """Smooths ``target`` so that its edges are those of ``guide``.

    Args:
        guide: float32 (H, W) or (H, W, C).
        target: float32 (H, W).
        radius: in pixels of the full size.
        epsilon: regularisation, in squared units of the guide.
        subsample: the coefficients are found at 1 / subsample of the size.

    Returns:
        float32 (H, W).

    Raises:
        ValueError: as ``guided_coefficients``, or a subsample below 1.

    Source: He, Sun and Tang, TPAMI 2013; He and Sun, "Fast Guided Filter", arXiv 1505.00996.
    """
    if subsample < 1:
        raise ValueError(f"subsample is {subsample}: it must be at least 1")
    small_guide, small_target, small_radius = guide, target, radius
    if subsample > 1:
        size = (max(1, guide.shape[0] // subsample), max(1, guide.shape[1] // subsample))
        small_guide, small_target = resize(guide, size), resize(target, size)
        small_radius = max(1, round(radius / subsample))
    slopes, intercepts = guided_coefficients(small_guide, small_target, small_radius, epsilon)
    return apply_coefficients(guide, slopes, intercepts)


def apply_coefficients(guide: Array, slopes: Array, intercepts: Array) -> Array:
    """The affine map a I + b at the guide's size; the coefficients may be of a smaller size.

    Args:
        guide: float32 (H, W) or (H, W, C).
        slopes: float32 (h, w, C).
        intercepts: float32 (h, w).

    Returns:
        float32 (H, W).
    """
    size = guide.shape[:2]
    result = resize(intercepts, size).copy()
    for channel in range(slopes.shape[2]):
        plane = guide if guide.ndim == 2 else guide[..., channel]
        result += resize(np.ascontiguousarray(slopes[..., channel]), size) * plane
    return result


def resize(image: Array, size: tuple[int, int]) -> Array:
    """Resizes (H, W) or (H, W, C) to ``size`` = (height, width): area means down, linear up."""
    if image.shape[:2] == size:
        return image
    shrinks = size[0] <= image.shape[0] and size[1] <= image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size[::-1], interpolation=method), dtype=np.float32)


def reduced(image: Array, short_side: int) -> Array:
    """(H, W) or (H, W, C), made smaller to a short side of at most ``short_side`` pixels."""
    height, width = image.shape[:2]
    scale = min(1.0, short_side / min(height, width))
    return resize(image, (round(height * scale), round(width * scale)))


def box_mean(values: NDArray[Any], radius: int) -> NDArray[np.float64]:
    """The mean of each square window of this half-width, in pixels; the border is mirrored."""
    side = 2 * radius + 1
    mean = cv2.boxFilter(values, cv2.CV_64F, (side, side), borderType=cv2.BORDER_REFLECT)
    return np.asarray(mean)
