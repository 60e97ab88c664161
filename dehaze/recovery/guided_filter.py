"""The guided filter: smooths one picture so that its edges are those of another."""

from __future__ import annotations

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
    channels = np.atleast_3d(guide).astype(np.float64)
    count = channels.shape[2]
    target64 = target.astype(np.float64)
    mean_target = box_mean(target64, radius)
    mean_guide = [box_mean(channels[..., c], radius) for c in range(count)]
    covariance = np.empty((*target.shape, count, count))
    crossed = np.empty((*target.shape, count, 1))
    for row in range(count):
        product = box_mean(channels[..., row] * target64, radius)
        crossed[..., row, 0] = product - mean_guide[row] * mean_target
        for column in range(row, count):
            product = box_mean(channels[..., row] * channels[..., column], radius)
            shared = product - mean_guide[row] * mean_guide[column]
            covariance[..., row, column] = covariance[..., column, row] = shared
    slopes = np.linalg.solve(covariance + epsilon * np.eye(count), crossed)[..., 0]
    intercepts = mean_target - sum(slopes[..., c] * mean_guide[c] for c in range(count))
    averaged = np.stack([box_mean(slopes[..., c], radius) for c in range(count)], axis=2)
    return averaged.astype(np.float32), box_mean(intercepts, radius).astype(np.float32)


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


def box_mean(values: NDArray[Any], radius: int) -> NDArray[np.float64]:
    side = 2 * radius + 1
    mean = cv2.boxFilter(values, cv2.CV_64F, (side, side), borderType=cv2.BORDER_REFLECT)
    return np.asarray(mean)
