"""Paths and centroids between inverted pictures, at norms that normal noise has.

The norm of a normal vector of d components is chi-distributed, and nearly always close to sqrt(d).
A straight line between two such vectors passes through norms that the network has never seen. Slerp
keeps to norms between theirs, NAO's path to likely norms.

Source: Samuel et al., "Norm-guided latent space exploration for text-to-image generation" (NAO),
arXiv 2306.08687, NeurIPS 2023.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dehaze.inversion.likely_paths import (
    Float,
    best_polyline,
    best_value,
    chi_log_density,
    minimiser,
    polyline_value,
)
from dehaze.registry import Registry


def slerp(start: Tensor, end: Tensor, share: float) -> Tensor:
    """The point at a share t of the great arc from a to b; its norm is (1 - t) |a| + t |b|.

    Its direction is sin((1 - t) w) / sin w u + sin(t w) / sin w v, with the directions u and v of a
    and b, and the angle w between them.

    Args:
        start: a, any shape.
        end: b, the same shape.
        share: t, 0 for a, 1 for b.

    Raises:
        ValueError: the shapes differ, a tensor is 0, or the two point in opposite directions, where
            no arc is the shortest.

    Source: Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985.
    """
    plane = _Plane(start, end)
    first, second = plane.start, plane.end
    radius = (1.0 - share) * first[0] + share * float(np.hypot(*second))
    angle = share * math.atan2(second[1], second[0])
    return plane.lift(np.array([[radius * math.cos(angle), radius * math.sin(angle)]]))[0]


def slerp_path(start: Tensor, end: Tensor, points: int) -> list[Tensor]:
    """Points at even shares of the great arc, ``start`` and ``end`` included."""
    _require_points(points)
    inner = [slerp(start, end, share) for share in np.linspace(0.0, 1.0, points)[1:-1]]
    return [start, *inner, end]


def norm_guided_path(start: Tensor, end: Tensor, points: int) -> list[Tensor]:
    """NAO's path: the polyline of equal segments with the greatest integral of L.

    It keeps to likely norms and is no longer than needed, see ``path_log_density``. L depends on
    the norm alone, so the path lies in the plane of 0, start and end. It is found by sequential
    quadratic programming that starts from the great arc.

    Args:
        start: any shape, d components in all.
        end: the same shape.
        points: on the path, ``start`` and ``end`` included, at least 2.

    Raises:
        ValueError: the shapes differ, a tensor is 0, or the two point in opposite directions.

    Source: NAO, arXiv 2306.08687, section 4.1.
    """
    _require_points(points)
    plane = _Plane(start, end)
    corners = best_polyline(plane.start, plane.end, points - 1, plane.dimension)
    return [start, *plane.lift(corners[1:-1]), end]


PATHS: Registry[Callable[[Tensor, Tensor, int], list[Tensor]]] = Registry("path")
PATHS.register("nao", norm_guided_path)
PATHS.register("slerp", slerp_path)


def points_between(
    ends: Sequence[tuple[Tensor, Tensor]],
    count: int,
    connect: Callable[[Tensor, Tensor, int], list[Tensor]] = norm_guided_path,
) -> list[Tensor]:
    """Points on several paths, evenly spread on each, without the paths' own ends.

    Args:
        ends: of each path.
        count: of points on all paths together; where it does not divide evenly, the first paths get
            one more.
        connect: makes a path, one of ``PATHS``.

    Returns:
        the points, path by path. Errors as those of ``connect``.
    """
    points: list[Tensor] = []
    for place, (start, end) in enumerate(ends):
        own = count // len(ends) + (place < count % len(ends))
        if own:
            points += connect(start, end, own + 2)[1:-1]
    return points


def path_log_density(path: Sequence[Tensor]) -> float:
    """The integral of L along a polyline: the number that NAO's path maximises.

    It is the sum, over eight pieces of each segment, of a piece's length times L of the norm of its
    midpoint.

    Args:
        path: at least two tensors of one shape.
    """
    corners = torch.stack([point.flatten().double() for point in path]).cpu().numpy()
    return polyline_value(corners, corners.shape[1])


def centroid(points: Sequence[Tensor], *, segments: int = 4) -> Tensor:
    """NAO's centroid: a likely point from which likely paths lead to all points.

    It maximises L(norm(c)) plus the sum, over the points, of ``path_log_density`` of the path from
    c to the point. By the symmetry of L it lies in the span of the points. BFGS finds it there,
    from the mean direction at the mean norm.

    Args:
        points: two or more tensors of one shape, linearly independent or not.
        segments: of each path.

    Raises:
        ValueError: there are fewer than two points, shapes differ, or the directions cancel.

    Source: NAO, arXiv 2306.08687, section 4.2.
    """
    if len(points) < 2:
        raise ValueError(f"a centroid needs two points or more, not {len(points)}")
    rows = torch.stack([_flat(point, points[0]) for point in points]).cpu().numpy()
    dimension = rows.shape[1]
    # Coordinates in the span: q (m, d) orthonormal, rows = coordinates @ q.
    _, values, basis = np.linalg.svd(rows, full_matrices=False)
    basis = basis[values > 1e-9 * values[0]]
    coordinates = rows @ basis.T
    norms = np.linalg.norm(coordinates, axis=1)
    direction = (coordinates / norms[:, None]).mean(0)
    length = float(np.linalg.norm(direction))
    if length < 1e-9:
        raise ValueError("the points' directions cancel: there is no middle to start from")
    beginning = direction / length * norms.mean()

    middle = _Middle(coordinates / math.sqrt(dimension), segments, dimension)
    found = minimiser()(
        middle.loss,
        beginning / math.sqrt(dimension),
        jac=True,
        method="BFGS",
        options={"gtol": 1e-4},
    )
    lifted = torch.from_numpy(math.sqrt(dimension) * found.x @ basis).to(points[0])
    return lifted.reshape(points[0].shape)


@dataclass(frozen=True)
class _Middle:
    """The objective of a centroid, in units of the likely norm.

    Attributes:
        points: (n, m), coordinates in their span.
        segments: of the path to each.
        dimension: d, of the space that the span lies in.
    """

    points: Float
    segments: int
    dimension: int

    def loss(self, candidate: Float) -> tuple[float, Float]:
        """The negative value of a candidate (m,), divided by d, and its derivative."""
        scale = math.sqrt(self.dimension)
        radius = max(float(np.linalg.norm(candidate)), 1e-9)
        across = candidate / radius
        value = float(chi_log_density(np.array(radius * scale), self.dimension))
        slope = ((self.dimension - 1.0) / radius - radius * self.dimension) * across
        start = np.array([radius * scale, 0.0])
        for point in self.points:
            along = float(point @ across)
            rest = point - along * across
            height = float(np.linalg.norm(rest))
            end = scale * np.array([along, height])
            more, by_start = best_value(start, end, self.segments, self.dimension)
            value += more
            # To first order, only moves in the plane of 0, candidate and point change the value.
            up = rest / height if height > 1e-12 else np.zeros_like(rest)
            slope = slope + scale * (by_start[0] * across + by_start[1] * up)
        return -value / self.dimension, -slope / self.dimension


class _Plane:
    """The plane of 0 and two vectors, with coordinates in which the first is (norm, 0)."""

    def __init__(self, start: Tensor, end: Tensor) -> None:
        first, second = _flat(start, start), _flat(end, start)
        self._like = start
        self._across = first / first.norm()
        self.start = np.array([float(first.norm()), 0.0])
        along = float(second @ self._across)
        rest = second - along * self._across
        height = float(rest.norm())
        if height < 1e-9 * float(second.norm()):
            if along < 0.0:
                raise ValueError("the two point in opposite directions: no path is the shortest")
            height, rest = 0.0, torch.zeros_like(rest)
        self._up = rest / height if height else rest
        self.end = np.array([along, height])
        self.dimension = len(first)

    def lift(self, corners: Float) -> list[Tensor]:
        """Points (k, 2) of the plane as tensors of the given shape."""
        return [
            (float(x) * self._across + float(y) * self._up).to(self._like).reshape(self._like.shape)
            for x, y in corners
        ]


def _flat(point: Tensor, like: Tensor) -> Tensor:
    if point.shape != like.shape:
        raise ValueError(f"shapes differ: {tuple(point.shape)} and {tuple(like.shape)}")
    flat = point.flatten().double()
    if not float(flat.norm()) > 0.0:
        raise ValueError("a tensor of zeros has no direction")
    return flat


def _require_points(points: int) -> None:
    if points < 2:
        raise ValueError(f"a path has two points or more, not {points}")
