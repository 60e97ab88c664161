"""Attention maps as figures for a paper: with a colour bar, as PNG, PDF or SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dehaze.eval.plots import as_file, import_figure

Array = NDArray[np.float32]

# Inches: the width of a page of two columns, and what the colour bar and its numbers take.
_WIDTH, _BAR = 7.0, 0.8
# Pixels of the long side of a picture: 300 and more an inch.
_PIXELS = 1000
_COLUMNS = 4
# More do not fit on a page.
MAX_PICTURES = 12
# Inches that a bar is long at most.
_LONGEST_BAR = 4.0


@dataclass(frozen=True)
class Attended:
    """A photo and where the model attends to a word in it.

    Attributes:
        name: written above it.
        photo: float32 (H, W, 3) in [0, 1].
        heat: float32 (H, W), the mean attention probability on the word.
    """

    name: str
    photo: Array
    heat: Array

    def shrunk(self) -> Attended:
        """The same, no larger than a figure shows it."""
        height, width = self.heat.shape
        factor = min(1.0, _PIXELS / max(height, width))
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        small = (cv2.resize(each, size, interpolation=cv2.INTER_AREA) for each in self._both)
        return Attended(self.name, *small)

    @property
    def _both(self) -> tuple[Array, Array]:
        return self.photo, self.heat


def draw_attention(attended: Attended, word: str, kind: str) -> bytes:
    """A photo, its map beside it, and the bar that says what the colours stand for.

    Args:
        attended: the photo and its map.
        word: that the map is of.
        kind: "png", "pdf" or "svg".

    Raises:
        PlotsMissingError: matplotlib is missing.
    """
    height, width = attended.heat.shape
    panel = (_WIDTH - _BAR) / 2
    figure = import_figure()(
        figsize=(_WIDTH, min(panel * height / width, 8.0) + 0.3), layout="constrained"
    )
    left, right = figure.subplots(1, 2)
    shown = attended.shrunk()
    _show(left, shown.photo, attended.name)
    drawn = _show(right, shown.heat, f"attention to “{word}”", cmap="inferno")
    _bar(figure, drawn, right, "mean probability")
    return as_file(figure, kind)


def draw_attention_grid(pictures: Sequence[Attended], word: str, kind: str) -> bytes:
    """Photos in rows of four, the map of each below it, all under one scale and one bar.

    Args:
        pictures: 1 to ``MAX_PICTURES``, no larger than ``Attended.shrunk`` makes them.
        word: that the maps are of.
        kind: "png", "pdf" or "svg".

    Raises:
        PlotsMissingError: matplotlib is missing.
        ValueError: none, or too many.
    """
    if not 1 <= len(pictures) <= MAX_PICTURES:
        raise ValueError(f"a grid shows 1 to {MAX_PICTURES} photos, not {len(pictures)}")
    columns = min(_COLUMNS, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    panel = (_WIDTH - _BAR) / columns
    # The height of each row is that of its tallest picture.
    tallest = [
        panel * max(each.heat.shape[0] / each.heat.shape[1] for each in pictures[start:][:columns])
        for start in range(0, len(pictures), columns)
    ]
    figure = import_figure()(figsize=(_WIDTH, 2 * sum(tallest) + 0.3 * rows), layout="constrained")
    grid = figure.subplots(
        2 * rows,
        columns,
        squeeze=False,
        height_ratios=[height for height in tallest for _ in ("photo", "map")],
    )
    scale = {
        "vmin": min(float(each.heat.min()) for each in pictures),
        "vmax": max(float(each.heat.max()) for each in pictures),
    }
    for axis in grid.flat:
        axis.set_axis_off()
    for place, each in enumerate(pictures):
        row, column = divmod(place, columns)
        # Each map right below its photo, however the others of the row are shaped.
        _show(grid[2 * row, column], each.photo, each.name).axes.set_anchor("S")
        drawn = _show(grid[2 * row + 1, column], each.heat, "", cmap="inferno", **scale)
        drawn.axes.set_anchor("N")
    _bar(figure, drawn, grid, f"attention to “{word}”, mean probability")
    return as_file(figure, kind)


def _bar(figure: Any, drawn: Any, beside: Any, label: str) -> None:
    share = min(1.0, _LONGEST_BAR / figure.get_figheight())
    bar = figure.colorbar(drawn, ax=beside, aspect=30, pad=0.02, shrink=share)
    bar.ax.set_ylabel(label, fontsize="small").set_parse_math(False)
    bar.ax.tick_params(labelsize="small")


def _show(axis: Any, picture: Array, title: str, **options: Any) -> Any:
    shown = title if len(title) <= 32 else f"{title[:31]}…"
    # A file may be called anything: its name is no formula.
    axis.set_title(shown, fontsize="small").set_parse_math(False)
    axis.set_axis_off()
    return axis.imshow(picture.clip(0.0, 1.0), interpolation="nearest", **options)
