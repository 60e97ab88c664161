"""Haze removal by null-text inversion, by fixed points, and by both: the methods, and the figure.

Source: "Exploring Fixed Point in Image Editing", NeurIPS 2024, figure 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dehaze.datasets import Sample, read_rgb
from dehaze.eval.figures import MAX_COMPARED, Compared, draw_variants
from dehaze.eval.methods import PipelineMethod, PipelineOptions
from dehaze.eval.plots import evenly_spread
from dehaze.eval.runner import EvaluationSet, Runner
from dehaze.levels import from_levels

NULL_TEXT, BOTH, FIXED_POINT = "null-text", "null-text + fixed point", "fixed point"


def variants(options: PipelineOptions) -> tuple[PipelineMethod, ...]:
    """The three methods of the figure, left to right.

    At guidance 1 the unconditional embedding has no effect, so null-text has nothing to fit.
    ``NULL_TEXT`` is then plain DDIM inversion, and ``BOTH`` equals ``FIXED_POINT``.

    Args:
        options: of all of them; its solver, predictor, criterion, iterations and tolerance are
            those of the fixed points.
    """
    guided = options.guidance_scale not in (None, 1.0)
    held = "null-text" if guided else "plain"
    fitted = "null-text" if guided else "null-text, which has nothing to fit at guidance 1,"
    point = "a fixed-point inversion"
    ddim = replace(
        options,
        solver="ddim",
        predictor=None,
        criterion=None,
        max_iterations=None,
        tolerance=None,
    )
    return (
        PipelineMethod(NULL_TEXT, replace(ddim, mode=held), f"{fitted} on plain DDIM inversion"),
        PipelineMethod(BOTH, replace(options, mode=held), f"{fitted} on {point}"),
        PipelineMethod(FIXED_POINT, replace(options, mode="plain"), f"{point} alone"),
    )


def draw_figure(runner: Runner, word: str, kinds: Sequence[str]) -> dict[str, bytes]:
    """The figure of a finished run, as the content of a file of each kind.

    Photos that no method did, such as one that cannot be read, are left out; there is no figure
    where that are all.

    Args:
        runner: of ``variants`` and what stands beside them, on one set; it kept the attention.
        word: that the maps are of.
        kinds: of ``dehaze.eval.plots.FIGURES``.

    Raises:
        PlotsMissingError: matplotlib is missing.
    """
    (part,) = runner.sets
    methods = [method for method in runner.methods if isinstance(method, PipelineMethod)]
    done = [
        sample
        for sample in part.samples
        if any(_found(runner, part, sample, method) is not None for method in methods)
    ]
    if not done:
        return {}
    photos = [
        _compared(runner, part, done[place - 1], methods)
        for place in evenly_spread(len(done), MAX_COMPARED)
    ]
    columns = headings(methods)
    return {kind: draw_variants(photos, columns, word, kind) for kind in kinds}


def headings(methods: Sequence[PipelineMethod]) -> list[str]:
    """The figure's headings of ``variants``, which say where null-text had nothing to fit."""
    unfitted = [
        method.name in (NULL_TEXT, BOTH) and method.options.guided()["mode"] == "plain"
        for method in methods
    ]
    return [
        f"{method.name}\n(nothing to fit)" if idle else method.name
        for method, idle in zip(methods, unfitted, strict=True)
    ]


def _compared(
    runner: Runner, part: EvaluationSet, sample: Sample, methods: Sequence[PipelineMethod]
) -> Compared:
    return Compared(
        sample.hazy.name,
        from_levels(read_rgb(sample.hazy).pixels),
        tuple(_found(runner, part, sample, method) for method in methods),
    )


def _found(
    runner: Runner, part: EvaluationSet, sample: Sample, method: PipelineMethod
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    image = runner.image_path(part.name, method, sample.name)
    heat = runner.attention_path(part.name, method, sample.name)
    if image is None or not (image.is_file() and heat.is_file()):
        return None
    return from_levels(read_rgb(image).pixels), np.load(heat)
