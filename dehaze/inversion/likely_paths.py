"""The most likely polyline between two points of a plane, and its derivative by the start.

NAO's objective depends on norms alone, so a path lies in the plane of 0 and its ends. Here points
are NumPy arrays of that plane; ``dehaze.inversion.interpolation`` has the latents.

Source: Samuel et al., "Norm-guided latent space exploration for text-to-image generation" (NAO),
arXiv 2306.08687, NeurIPS 2023.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dehaze.errors import DehazeError

Float = NDArray[np.float64]

INSTALL = "pip install 'dehaze-diffusion[interpolate]'"


# L is evaluated at the middles of eight equal pieces of a segment. The paper takes the middle of
# the whole segment. With few segments its best path is a zigzag of likely middles and unlikely
# corners, and the corners are the pictures. With many segments the two agree.
_PIECES = (np.arange(8) + 0.5) / 8


class SciPyMissingError(DehazeError, RuntimeError):
    """SciPy is not installed; the message says how to install it."""


def minimiser() -> Callable[..., Any]:
    """``scipy.optimize.minimize``, which finds likely paths and centroids.

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


def polyline_value(corners: Float, dimension: int) -> float:
    """The integral of L along a polyline of corners (k, n), in eight pieces a segment."""
    steps = np.diff(corners, axis=0)
    places = corners[:-1] + _PIECES[:, None, None] * steps
    norms = np.maximum(np.linalg.norm(places, axis=2), 1e-12)
    lengths = np.linalg.norm(steps, axis=1)
    return float((lengths * chi_log_density(norms, dimension)).sum() / len(_PIECES))


def best_polyline(start: Float, end: Float, segments: int, dimension: int) -> Float:
    """The polyline of equal segments with the greatest ``polyline_value``.

    Args:
        start: (2,).
        end: (2,).
        segments: how many, at least 1.
        dimension: d, of the space that the plane lies in.

    Returns:
        its corners, (segments + 1, 2).
    """
    if segments == 1 or np.allclose(start, end):
        return np.linspace(start, end, segments + 1)
    scale = math.sqrt(dimension)
    problem = _Polyline(start / scale, end / scale, segments, dimension)
    corners = problem.corners(problem.solved()) * scale
    corners[0], corners[-1] = start, end
    return corners


def best_value(start: Float, end: Float, segments: int, dimension: int) -> tuple[float, Float]:
    """The value of the best polyline, and its derivative by the start.

    By the envelope theorem the polyline need not be found again: with the objective F, the
    constraint G that the polyline reaches the end, and its multipliers m,
    dV / dstart = dF / dstart + m dG / dstart.

    Arguments as for ``best_polyline``.

    Returns:
        the value, and (2,).
    """
    if segments == 1 or np.allclose(start, end):
        value = polyline_value(np.linspace(start, end, segments + 1), dimension)
        return value, np.zeros(2)
    scale = math.sqrt(dimension)
    problem = _Polyline(start / scale, end / scale, segments, dimension)
    unknown = problem.solved()
    loss, slope = problem.loss(unknown)
    # Where F is greatest under G = 0, dF / du + m dG / du = 0.
    multipliers, *_ = np.linalg.lstsq(problem.gap_slopes(unknown).T, slope, rcond=None)
    return -scale * loss, problem.start_slope(unknown) + multipliers


@dataclass(frozen=True)
class _Polyline:
    """A polyline of equal segments, in units of the likely norm.

    The unknown is the heading of each segment, then the common length, (segments + 1,).
    """

    start: Float
    end: Float
    segments: int
    dimension: int

    def solved(self) -> Float:
        """The unknown of the best polyline that reaches the end, found from the great arc."""
        found = minimiser()(
            self.loss,
            self._arc(),
            jac=True,
            method="SLSQP",
            bounds=[(None, None)] * self.segments + [(1e-9, None)],
            constraints={"type": "eq", "fun": self.gap, "jac": self.gap_slopes},
            options={"maxiter": 200, "ftol": 1e-8},
        )
        return np.asarray(found.x, np.float64)

    def corners(self, unknown: Float) -> Float:
        """(segments + 1, 2)."""
        moves = unknown[-1] * _directions(unknown[:-1])
        return np.vstack([self.start, self.start + np.cumsum(moves, axis=0)])

    def gap(self, unknown: Float) -> Float:
        """The last corner minus the end, (2,)."""
        reached = self.start + unknown[-1] * _directions(unknown[:-1]).sum(0)
        return np.asarray(reached - self.end)

    def gap_slopes(self, unknown: Float) -> Float:
        """The derivative of ``gap`` by the unknown, (2, segments + 1)."""
        forward = _directions(unknown[:-1])
        return np.vstack([unknown[-1] * _left_of(forward), forward.sum(0)]).T

    def loss(self, unknown: Float) -> tuple[float, Float]:
        """The negative value, divided by the likely norm, and its derivative by the unknown."""
        length = unknown[-1]
        forward = _directions(unknown[:-1])
        reach, densities, pull = self._places(unknown)
        # Heading k moves places in segment k in part, and places in later segments by a whole step.
        own = (_PIECES[:, None, None] * pull).sum(0)
        whole = pull.sum(0)
        later = np.cumsum(whole[::-1], axis=0)[::-1] - whole
        share = length / len(_PIECES)
        by_heading = share * length * ((own + later) * _left_of(forward)).sum(1)
        by_length = densities.sum() / len(_PIECES) + share * float((pull * reach).sum())
        return -share * float(densities.sum()), -np.append(by_heading, by_length)

    def start_slope(self, unknown: Float) -> Float:
        """The derivative of the value by the start, at fixed headings and length, (2,)."""
        _, _, pull = self._places(unknown)
        return np.asarray(unknown[-1] / len(_PIECES) * pull.sum((0, 1)))

    def _places(self, unknown: Float) -> tuple[Float, Float, Float]:
        """Place, L and dL / dplace of each piece of each segment, (8, segments) each.

        The first and the last have a coordinate as well, (8, segments, 2).
        """
        forward = _directions(unknown[:-1])
        reach = _PIECES[:, None, None] * forward + np.cumsum(forward, axis=0) - forward
        places = self.start + unknown[-1] * reach
        norms = np.maximum(np.linalg.norm(places, axis=2), 1e-9)
        densities = chi_log_density(norms * math.sqrt(self.dimension), self.dimension)
        slopes = ((self.dimension - 1.0) / norms - norms * self.dimension) / norms
        return reach, densities, slopes[..., None] * places

    def _arc(self) -> Float:
        """The unknown of equal steps at the headings of the great arc."""
        angles = np.linspace(0.0, _angle(self.end) - _angle(self.start), self.segments + 1)
        angles += _angle(self.start)
        radii = np.linspace(np.hypot(*self.start), np.hypot(*self.end), self.segments + 1)
        steps = np.diff(radii[:, None] * _directions(angles), axis=0)
        headings = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))
        return np.append(headings, np.hypot(*steps.T).mean())


def _angle(point: Float) -> float:
    return math.atan2(point[1], point[0])


def _directions(headings: Float) -> Float:
    """Unit vectors, (n, 2), of angles (n,)."""
    return np.stack([np.cos(headings), np.sin(headings)], axis=1)


def _left_of(forward: Float) -> Float:
    """Unit vectors (n, 2) turned left by a right angle."""
    return np.stack([-forward[:, 1], forward[:, 0]], axis=1)
