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

# In inches: the width of a page of two columns, and of the colour bar with its numbers.
_WIDTH, _BAR = 7.0, 0.8
# Long side of a picture in pixels, 300 an inch or more.
_PIXELS = 1000
# The same where each of several methods has a column.
_COMPARED_PIXELS = _PIXELS / 2
_COLUMNS = 4
# The most pictures that fit on a page.
MAX_PICTURES = 12
# The most photos with a row of results each.
MAX_COMPARED = 6
# The greatest length of a bar, in inches.
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
        """The same, at most as large as a figure shows it."""
        return Attended(self.name, _small(self.photo, _PIXELS), _small(self.heat, _PIXELS))


def draw_attention(attended: Attended, word: str, kind: str) -> bytes:
    """A photo, its map beside it, and the colour bar.

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
    """Photos in rows of four, the map of each below it, on one scale with one colour bar.

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
        # Each map right below its photo, whatever the shapes of the row's other photos.
        _show(grid[2 * row, column], each.photo, each.name).axes.set_anchor("S")
        drawn = _show(grid[2 * row + 1, column], each.heat, "", cmap="inferno", **scale)
        drawn.axes.set_anchor("N")
    _bar(figure, drawn, grid, f"attention to “{word}”, mean probability")
    return as_file(figure, kind)


@dataclass(frozen=True)
class Compared:
    """A photo, and the results of several methods.

    Attributes:
        name: written beside it.
        photo: float32 (H, W, 3) in [0, 1].
        results: of each method its picture, float32 (H, W, 3) in [0, 1], and its map of attention
            to the word, float32 (H, W); None where the method failed.
    """

    name: str
    photo: Array
    results: tuple[tuple[Array, Array] | None, ...]


def draw_variants(
    photos: Sequence[Compared], methods: Sequence[str], word: str, kind: str
) -> bytes:
    """One row for each photo: the photo, then each method's result above its attention map.

    All maps are under one scale, whose bar stands on the right.

    Args:
        photos: 1 to ``MAX_COMPARED``.
        methods: names of the columns.
        word: that the maps are of.
        kind: "png", "pdf" or "svg".

    Raises:
        PlotsMissingError: matplotlib is missing.
        ValueError: none, or too many.

    Source: the arrangement of "Exploring Fixed Point in Image Editing", NeurIPS 2024, figure 8.
    """
    if not 1 <= len(photos) <= MAX_COMPARED:
        raise ValueError(f"a figure shows 1 to {MAX_COMPARED} photos, not {len(photos)}")
    columns = 1 + len(methods)
    panel = (_WIDTH - _BAR) / columns
    # A portrait is at most as tall as a square; else it would fill the page.
    heights = [panel * min(1.0, each.photo.shape[0] / each.photo.shape[1]) for each in photos]
    figure = import_figure()(
        figsize=(_WIDTH, 2 * sum(heights) + 0.25 * len(photos) + 0.2), layout="constrained"
    )
    grid = figure.subplots(
        2 * len(photos),
        columns,
        squeeze=False,
        height_ratios=[height for height in heights for _ in ("picture", "map")],
    )
    maps = [found[1] for each in photos for found in each.results if found is not None]
    scale = {
        "vmin": min((float(heat.min()) for heat in maps), default=0.0),
        "vmax": max((float(heat.max()) for heat in maps), default=1.0),
    }
    drawn = None
    for axis in grid.flat:
        axis.set_axis_off()
    for row, each in enumerate(photos):
        above, below = grid[2 * row], grid[2 * row + 1]
        _show(
            above[0], _small(each.photo, _COMPARED_PIXELS), "input" if row == 0 else ""
        ).axes.set_anchor("S")
        _write_below(below[0], each.name)
        for column, found in enumerate(each.results, start=1):
            title = methods[column - 1] if row == 0 else ""
            if found is None:
                above[column].set_title(title, fontsize="small").set_parse_math(False)
                _write_below(above[column], "failed")
                continue
            _show(above[column], _small(found[0], _COMPARED_PIXELS), title).axes.set_anchor("S")
            drawn = _show(
                below[column], _small(found[1], _COMPARED_PIXELS), "", cmap="inferno", **scale
            )
            drawn.axes.set_anchor("N")
    if drawn is not None:
        _bar(figure, drawn, grid, f"attention to “{word}”, mean probability")
    return as_file(figure, kind)


def _small(picture: Array, longest: float) -> Array:
    """A picture whose long side has at most ``longest`` pixels."""
    factor = min(1.0, longest / max(picture.shape[:2]))
    size = tuple(max(1, round(side * factor)) for side in picture.shape[1::-1])
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.float32)


def _write_below(axis: Any, text: str) -> None:
    """Text at the top of an empty panel, under the picture above it."""
    words = _cut(text)
    axis.text(
        0.5, 0.98, words, ha="center", va="top", fontsize="small", transform=axis.transAxes
    ).set_parse_math(False)


def _cut(text: str, length: int = 32) -> str:
    """The text with lines of at most ``length`` characters."""
    lines = text.split("\n")
    return "\n".join(line if len(line) <= length else f"{line[: length - 1]}…" for line in lines)


def _bar(figure: Any, drawn: Any, beside: Any, label: str) -> None:
    share = min(1.0, _LONGEST_BAR / figure.get_figheight())
    # Else a bar would move pictures that are narrower than their panel to the right.
    bar = figure.colorbar(drawn, ax=beside, aspect=30, pad=0.02, shrink=share, panchor=False)
    bar.ax.set_ylabel(label, fontsize="small").set_parse_math(False)
    bar.ax.tick_params(labelsize="small")


def _show(axis: Any, picture: Array, title: str, **options: Any) -> Any:
    # Without parsing: a file's name may look like a formula.
    axis.set_title(_cut(title), fontsize="small").set_parse_math(False)
    axis.set_axis_off()
    return axis.imshow(picture.clip(0.0, 1.0), interpolation="nearest", **options)
