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
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dehaze.errors import DehazeError
from dehaze.registry import Registry

Float = NDArray[np.float64]

INSTALL = "pip install 'dehaze-diffusion[interpolate]'"


# L is evaluated at the middles of eight equal pieces of a segment. The paper takes the middle of
# the whole segment: with few segments that rewards a zigzag of likely middles and unlikely corners,
# and the corners are the pictures. With many segments the two agree.
_PIECES = (np.arange(8) + 0.5) / 8


class SciPyMissingError(DehazeError, RuntimeError):
    """SciPy is not installed; the message says how to install it."""


def minimiser() -> Callable[..., Any]:
    """``scipy.optimize.minimize``, which likely paths and centres are found by.

    Raises:
        SciPyMissingError: SciPy is not installed.
    """
    try:
        from scipy.optimize import minimize
    except ImportError as error:
        raise SciPyMissingError(f"likely paths and centres need SciPy: {INSTALL}") from error
    return minimize


def chi_log_density(norm: Float, dimension: int) -> Float:
    """L(r) = (d - 1) log r - r^2 / 2 - ((d / 2 - 1) log 2 + lgamma(d / 2)).

    Args:
        norm: r, positive.
        dimension: d, at least 1.

    Returns:
        the log density of the chi distribution with d degrees of freedom, of the shape of ``norm``.

    Source: NAO, arXiv 2306.08687, section 3.
    """
    half = dimension / 2.0
    constant = (half - 1.0) * math.log(2.0) + math.lgamma(half)
    return np.asarray((dimension - 1.0) * np.log(norm) - np.square(norm) / 2.0 - constant)


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
    plane = _Plane.through(start, end)
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
    """NAO's path: the polyline of equal segments along which the integral of L is greatest.

    It keeps to likely norms without being longer than it must, see ``path_log_density``. L depends
    on the norm alone, so the path lies in the plane of 0, start and end. It is found by sequential
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
    plane = _Plane.through(start, end)
    corners = _best_polyline(plane.start, plane.end, points - 1, plane.dimension)
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
        count: of points on all paths together. The first paths have one more where they cannot all
            have as many.
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
    return _polyline_value(corners, corners.shape[1])


def centroid(points: Sequence[Tensor], *, segments: int = 4) -> Tensor:
    """NAO's centroid: a likely point from which likely paths lead to all points.

    It maximises L(norm(c)) plus the sum, over the points, of ``path_log_density`` of the path from
    c to the point. By the symmetry of L it lies in the span of the points. It is found there by the
    simplex of Nelder and Mead, which starts from the mean direction at the mean norm.

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

    def loss(candidate: Float) -> float:
        radius = float(np.linalg.norm(candidate))
        if radius < 1e-6 * norms.mean():
            return math.inf
        total = float(chi_log_density(np.array(radius), dimension))
        for point in coordinates:
            first, second = _planar(candidate, point)
            corners = _best_polyline(first, second, segments, dimension)
            total += _polyline_value(corners, dimension)
        return -total

    simplex = np.vstack([beginning, beginning + 0.05 * norms.mean() * np.eye(len(beginning))])
    found = minimiser()(
        loss, beginning, method="Nelder-Mead",
        options={"initial_simplex": simplex, "xatol": 1e-3 * norms.mean(), "fatol": 1e-2},
    )  # fmt: skip
    lifted = torch.from_numpy(found.x @ basis).to(points[0])
    return lifted.reshape(points[0].shape)


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

    @classmethod
    def through(cls, start: Tensor, end: Tensor) -> _Plane:
        return cls(start, end)

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


def _planar(first: Float, second: Float) -> tuple[Float, Float]:
    """Two vectors in coordinates of their plane, in which the first is (norm, 0)."""
    radius = float(np.linalg.norm(first))
    along = float(second @ first) / radius
    height = math.sqrt(max(float(second @ second) - along**2, 0.0))
    return np.array([radius, 0.0]), np.array([along, height])


def _polyline_value(corners: Float, dimension: int) -> float:
    steps = np.diff(corners, axis=0)
    places = corners[:-1] + _PIECES[:, None, None] * steps
    norms = np.maximum(np.linalg.norm(places, axis=2), 1e-12)
    lengths = np.linalg.norm(steps, axis=1)
    return float((lengths * chi_log_density(norms, dimension)).sum() / len(_PIECES))


def _best_polyline(start: Float, end: Float, segments: int, dimension: int) -> Float:
    """Corners (segments + 1, 2). Unknown: the common length and the heading of each segment."""
    if segments == 1 or np.allclose(start, end):
        return np.linspace(start, end, segments + 1)
    # In units of the likely norm, so that lengths and angles are alike in size.
    scale = math.sqrt(dimension)
    angles = np.linspace(0.0, math.atan2(end[1], end[0]), segments + 1)
    radii = np.linspace(start[0], float(np.hypot(*end)), segments + 1)
    arc = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1) / scale
    steps = np.diff(arc, axis=0)
    # What an equal step at the arc's headings would be.
    beginning = np.append(
        np.unwrap(np.arctan2(steps[:, 1], steps[:, 0])), np.hypot(*steps.T).mean()
    )

    def corners_of(unknown: Float) -> Float:
        headings, length = unknown[:-1], unknown[-1]
        moves = length * np.stack([np.cos(headings), np.sin(headings)], axis=1)
        return np.vstack([arc[0], arc[0] + np.cumsum(moves, axis=0)])

    def loss(unknown: Float) -> tuple[float, Float]:
        headings, length = unknown[:-1], unknown[-1]
        forward = np.stack([np.cos(headings), np.sin(headings)], axis=1)
        sideways = np.stack([-np.sin(headings), np.cos(headings)], axis=1)
        within = _PIECES[:, None, None] * forward
        reach = within + np.cumsum(forward, axis=0) - forward
        places = arc[0] + length * reach
        norms = np.maximum(np.linalg.norm(places, axis=2), 1e-9)
        densities = chi_log_density(norms * scale, dimension)
        # dL / d place, which points from 0 to the place or back.
        slopes = ((dimension - 1.0) / norms - norms * dimension) / norms
        pull = slopes[..., None] * places
        # Heading k moves the places in segment k in part, and all later ones by a whole step.
        own = (_PIECES[:, None, None] * pull).sum(0)
        whole = pull.sum(0)
        later = np.cumsum(whole[::-1], axis=0)[::-1] - whole
        share = length / len(_PIECES)
        by_heading = share * length * ((own + later) * sideways).sum(1)
        by_length = densities.sum() / len(_PIECES) + share * float((pull * reach).sum())
        return -share * float(densities.sum()), -np.append(by_heading, by_length)

    goal = end / scale
    found = minimiser()(
        loss, beginning, jac=True, method="SLSQP",
        bounds=[(None, None)] * segments + [(1e-9, None)],
        constraints={"type": "eq", "fun": lambda unknown: corners_of(unknown)[-1] - goal},
        options={"maxiter": 200, "ftol": 1e-8},
    )  # fmt: skip
    corners = corners_of(found.x) * scale
    corners[0], corners[-1] = start, end
    return corners
