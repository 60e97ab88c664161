"""The Fréchet distance of two sets of features: FID, where the features are an Inception's."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


def frechet_distance(first: Float, second: Float) -> float:
    """|m - n|^2 + tr(S + T - 2 (S T)^(1/2)), with the means m, n and the covariances S, T.

    Covariances are of samples (divided by their number less one). (S T)^(1/2) has the trace of
    (S^(1/2) T S^(1/2))^(1/2), so that only roots of symmetric matrices are needed.

    Args:
        first: float64 (n, d).
        second: float64 (m, d).

    Returns:
        the distance, at least 0; NaN where a set has fewer than two rows, and no covariance.

    Source: Heusel et al., "GANs trained by a two time-scale update rule", arXiv 1706.08500.

    Example:
        >>> frechet_distance(np.array([[0.0], [2.0]]), np.array([[3.0], [5.0]]))
        9.0
    """
    if min(len(first), len(second)) < 2:
        return math.nan
    between = float(np.square(first.mean(0) - second.mean(0)).sum())
    covariances = [np.atleast_2d(np.cov(rows, rowvar=False)) for rows in (first, second)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ covariances[1] @ root)
    shared = float(np.sqrt(np.maximum(product, 0.0)).sum())
    spread = float(np.trace(covariances[0]) + np.trace(covariances[1]))
    return max(between + spread - 2.0 * shared, 0.0)


def frechet_caveat(pictures: int, photos: int, features: int) -> str | None:
    """What a reader of the distance must know, or None.

    Args:
        pictures: n, in one set.
        photos: m, in the other.
        features: d, of each.

    Example:
        >>> frechet_caveat(1, 20, 8)
        'of 1 picture there is no covariance, and no distance'
    """
    few = min(pictures, photos)
    if few < 2:
        return f"of {few} picture there is no covariance, and no distance"
    if few <= features:
        return (
            f"{few} pictures have no full covariance of {features} features: the distance is too "
            "large, and compares only with one of as many pictures"
        )
    return None
