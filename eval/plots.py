"""Plots: residuals, contraction, trajectories and reconstruction of an inversion, as PNG."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dehaze.errors import DehazeError
from dehaze.inversion import InversionResult, InversionTrace

Array = NDArray[np.floating[Any]]

PLOTS = "pip install 'dehaze-diffusion[plots]'"


class PlotsMissingError(DehazeError, RuntimeError):
    """matplotlib is not installed; the message says how to install it."""


# The most panels of a figure that can be read.
_RESIDUAL_PANELS = 8
_TRAJECTORY_PANELS = 4


def import_figure() -> Any:
    """matplotlib's Figure, which draws without a window.

    Raises:
        PlotsMissingError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotsMissingError(f"plots need matplotlib: {PLOTS}") from error
    return Figure


# Kinds of files for figures, and the metadata of each that hold the date or the version.
FIGURES = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Date": None, "Creator": None},
}


def as_file(figure: Any, kind: str, *, dpi: int = 300) -> bytes:
    """A matplotlib figure as a file, the same bytes whenever it is drawn.

    Args:
        figure: what is drawn.
        kind: one of ``FIGURES``.
        dpi: pixels an inch of a PNG, and of the pictures inside of the others.
    """
    from matplotlib import rc_context

    buffer = io.BytesIO()
    # Fonts that publishers take (TrueType), and names in an SVG that do not depend on the time.
    with rc_context({"pdf.fonttype": 42, "svg.hashsalt": "dehaze"}):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=FIGURES[kind])
    return buffer.getvalue()


def as_png(figure: Any) -> bytes:
    """A matplotlib figure as PNG for the screen."""
    return as_file(figure, "png", dpi=110)


def evenly_spread(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers 1 .. count, evenly spread, the first and last included."""
    return sorted({round(position) for position in np.linspace(1, count, min(most, count))})


def draw_residuals(trace: InversionTrace, timesteps: Sequence[int]) -> bytes:
    """Residuals and the bound over the iterations of up to eight steps, as PNG; of one sample.

    Args:
        trace: with both residuals, that of the criterion ``inter-path``.
        timesteps: tau_1 .. tau_n.

    Raises:
        PlotsMissingError: matplotlib is missing, as in all that draws here.
    """
    steps = trace.residuals.shape[0]
    shown = evenly_spread(steps, _RESIDUAL_PANELS)
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure = import_figure()(figsize=(2.4 * columns, 2.3 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axis in grid.flat[len(shown) :]:
        axis.set_axis_off()
    for axis, i in zip(grid.flat, shown, strict=False):
        for values, label in (
            (trace.residuals, "intra-path"),
            (trace.inter, "inter-path"),
            (trace.bounds, "bound of the error"),
        ):
            curve = values[i - 1, :, 0]
            axis.semilogy(range(1, len(curve) + 1), curve.tolist(), ".-", label=label)
        axis.set_title(f"step {i} of {steps}, timestep {timesteps[i - 1]}", fontsize="small")
        axis.grid(alpha=0.3)
    for axis in grid[-1]:
        axis.set_xlabel("iteration")
    for axis in grid[:, 0]:
        axis.set_ylabel("relative")
    grid[0, 0].legend(fontsize="x-small")
    return as_png(figure)


def draw_contraction(trace: InversionTrace, timesteps: Sequence[int]) -> bytes:
    """The estimate of the contraction constant over the timesteps, as PNG; of the first sample."""
    figure = import_figure()(figsize=(5.0, 3.2), layout="constrained")
    axis = figure.subplots()
    constants = trace.contraction[:, 0].tolist()
    axis.plot(timesteps[: len(constants)], constants, "o-")
    axis.axhline(1.0, color="black", linestyle=":")
    axis.set(xlabel="timestep", ylabel="contraction constant", ylim=(0.0, None))
    axis.grid(alpha=0.3)
    return as_png(figure)


def principal_plane(paths: Array) -> tuple[Array, float]:
    """Paths in the plane in which they spread most.

    Args:
        paths: (K, starts, D), the last point of the first path becomes the origin.

    Returns:
        (K, starts, 2), and the share of the spread (the sum of squares) that the plane holds.

    Source: principal component analysis, K. Pearson, Philosophical Magazine 2 (1901).
    """
    count, starts, size = paths.shape
    points = (paths - paths[-1, :1]).reshape(count * starts, size)
    _, spread, directions = np.linalg.svd(points - points.mean(0), full_matrices=False)
    held = float((spread[:2] ** 2).sum() / max(float((spread**2).sum()), 1e-300))
    plane = points @ directions[:2].T
    if plane.shape[1] < 2:
        plane = np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))
    return plane.reshape(count, starts, 2), held


def draw_trajectories(inversion: InversionResult, paths_of_step: Callable[[int], Array]) -> bytes:
    """Iterates of a few steps from several starts, in the plane of their spread, as PNG.

    Args:
        inversion: whose steps they are.
        paths_of_step: from the step i to (K, starts, D), z_{i-1} the first start.
    """
    shown = evenly_spread(inversion.steps, _TRAJECTORY_PANELS)
    figure = import_figure()(figsize=(2.9 * len(shown), 3.1), layout="constrained")
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    for axis, i in zip(axes, shown, strict=True):
        paths = paths_of_step(i)
        plane, held = principal_plane(paths)
        for start in range(plane.shape[1]):
            label = {0: "from the step before", 1: "from noise (all colours)"}.get(start)
            color = "black" if start == 0 else f"C{start - 1}"
            axis.plot(*plane[:, start].T, ".-", color=color, linewidth=1, label=label)
            axis.plot(*plane[0, start], "o", color=color)
        apart = np.linalg.norm(paths - paths[:, :1], axis=2).max(1)
        axis.plot(0.0, 0.0, "k*", markersize=11)
        axis.set_title(
            f"step {i} of {inversion.steps}: {apart[-1] / apart[0]:.1e} of\nthe distance left; "
            f"plane of {100 * held:.0f} %",
            fontsize="small",
        )
        axis.set_xticks([])
        axis.set_yticks([])
    axes[0].legend(fontsize="x-small")
    return as_png(figure)


def draw_reconstruction(original: Array, back: Array, psnr: float) -> bytes:
    """A photo, what came back, and the difference, as PNG.

    Args:
        original: (H, W, 3) in [0, 1].
        back: the same shape.
        psnr: of the two, in dB.
    """
    difference = abs(back - original)
    # The power of ten that makes the difference visible; no difference stays black.
    factor = 10.0 ** np.clip(np.floor(-np.log10(max(float(difference.max()), 1e-9))), 0, 6)
    figure = import_figure()(figsize=(9.0, 2.8), layout="constrained")
    panels = (
        ("original", original),
        (f"reconstruction, {psnr:.1f} dB", back),
        (f"difference, x {factor:g}", factor * difference),
    )
    for axis, (title, picture) in zip(figure.subplots(1, 3), panels, strict=True):
        axis.imshow(picture.clip(0.0, 1.0), interpolation="nearest")
        axis.set_title(title)
        axis.set_axis_off()
    return as_png(figure)
