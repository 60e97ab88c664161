"""The table of all ways to invert, at every number of steps and guidance, and its plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import ceil, floor, isfinite, isnan, log10, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dehaze.eval.files import finite, told_left_out, write_table
from dehaze.eval.inversion.captions import CaptionChoice
from dehaze.eval.inversion.methods import InversionMethod, family
from dehaze.eval.inversion.scores import (
    NO_JUDGES,
    CodecCeiling,
    InversionScore,
    Judges,
    Photos,
    codec_ceiling,
    score_inversion,
)
from dehaze.eval.plots import as_png, import_figure
from dehaze.inversion import InversionSettings
from dehaze.inversion.inverter import check_served
from dehaze.inversion.reconstruction import holds
from dehaze.inversion.solvers import idle_settings
from dehaze.network import NonFiniteError
from dehaze.wording import counted, counted_of

if TYPE_CHECKING:
    from dehaze.pipelines.base import InversionPipeline

Array = NDArray[np.float32]


@dataclass(frozen=True)
class InversionTable:
    """The scores of many ways to invert.

    Attributes:
        command: the command line that made the table.
        photos: how many photos were inverted.
        scores: one for each method, number of steps and guidance scale.
        ceiling: what the codec alone leaves of the photos.
        captions: how the photos and their captions fit; None where all had the model's own prompt.
        left_out: one line about each photo that could not be read.
        failed: one line about each row whose latents diverged.
    """

    command: str
    photos: int
    scores: tuple[InversionScore, ...]
    ceiling: CodecCeiling
    captions: CaptionChoice | None = None
    left_out: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """The scores as flat rows; a value that is infinite or NaN is None."""
        rows = []
        for score in self.scores:
            flat = asdict(score.settings) | {"mode": score.method.mode} | asdict(score)
            del flat["method"], flat["settings"]
            rows.append(finite(flat))
        return rows

    @property
    def _measured(self) -> list[str]:
        """The judges' measures that were taken, by the names of ``InversionScore``."""
        return [
            name
            for name in ("lpips", "clip")
            if not all(isnan(getattr(score, name)) for score in self.scores)
        ]

    def markdown(self) -> str:
        """The table, ready for the terminal and the documentation."""
        judged = "".join(f" {_NAMES[name]} |" for name in self._measured)
        ceiling = ", ".join(
            [
                _decibels(self.ceiling.psnr),
                *(f"{_NAMES[name]} {getattr(self.ceiling, name):.4g}" for name in self._measured),
            ]
        )
        photos = counted_of(self.photos, self.photos + len(self.left_out), "photo")
        under = "" if self.captions is None else ", each under its caption,"
        lines = [
            f"{photos}{under} at the working size, reconstruction "
            f"unrounded; the codec alone: {ceiling}.",
            "",
            "| steps | g | method | iterations | tolerance | evaluations a step | PSNR (dB) "
            f"| worst (dB) |{judged} latent error | converged | contractive | s a photo |",
            "| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |"
            f"{' ---: |' * len(self._measured)} ---: | ---: | ---: | ---: |",
        ]
        for score in self.scores:
            settings = score.settings
            iterations, tolerance = "", ""
            if "max_iterations" not in idle_settings(settings.solver):
                iterations, tolerance = str(settings.max_iterations), f"{settings.tolerance:.2g}"
            contractive = "" if isnan(score.contractive) else f"{100 * score.contractive:.0f} %"
            converged = "" if isnan(score.converged) else f"{100 * score.converged:.0f} %"
            values = "".join(f" {getattr(score, name):.4f} |" for name in self._measured)
            lines.append(
                f"| {settings.steps} | {score.guidance_scale:g} | {score.family} "
                f"| {iterations} | {tolerance} | {score.nfe_per_step:.2f} "
                f"| {score.psnr:.2f} | {score.psnr_worst:.2f} |{values} {score.latent_error:.1e} "
                f"| {converged} | {contractive} | {score.seconds:.2f} |"
            )
        if any(score.method.mode == "null-text" for score in self.scores):
            lines += [
                "",
                "Evaluations and seconds include null-text's fitting; gradients, of which it takes "
                "up to ten a step, are in the seconds alone.",
            ]
        if self.captions is not None:
            lines += ["", *self.captions.summary()]
        told = told_left_out([*self.failed, *self.left_out])
        return "\n".join([*lines, *told, "", f"`{self.command}`", ""])

    def write(self, folder: Path) -> list[Path]:
        """Writes inversion.json, .csv, .md and .png; returns their paths.

        Raises:
            PlotsMissingError: matplotlib, which draws the plot, is missing.
            PhotoError: a file cannot be written.
        """
        plot = self.plot()
        rows = self.rows()
        return write_table(
            folder,
            "inversion",
            content={
                "command": self.command,
                "photos": self.photos,
                "left_out": self.left_out,
                "failed": self.failed,
                "scores": rows,
                **{f"codec_{name}": value for name, value in asdict(self.ceiling).items()},
                **({} if self.captions is None else {"captions": self.captions.content()}),
            },
            columns=list(rows[0]),
            rows=rows,
            markdown=self.markdown(),
            plot=plot,
        )

    def plot(self) -> bytes:
        """What was measured, over network evaluations a step and over seconds, as a PNG file.

        There is a row for each number of steps and guidance scale, a curve for each family; the
        codec's ceiling is a dotted line.

        Raises:
            PlotsMissingError: matplotlib is missing.
        """
        figure_class = import_figure()
        runs = dict.fromkeys((score.settings.steps, score.guidance_scale) for score in self.scores)
        rows = [(run, y) for run in runs for y in ("psnr", *self._measured)]
        figure = figure_class(figsize=(10.8, 3.6 * len(rows)), layout="constrained")
        grid = figure.subplots(len(rows), 2, squeeze=False, sharey="row")
        for axes, ((steps, guidance_scale), y) in zip(grid, rows, strict=True):
            for axis, x in zip(axes, ("nfe_per_step", "seconds"), strict=True):
                self._draw(axis, x, y, steps, guidance_scale)
        grid[0, -1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize="small")
        return as_png(figure)

    def _draw(self, axis: Any, x: str, y: str, steps: int, guidance_scale: float) -> None:
        """One panel: y over x of each family, at one number of steps and guidance scale."""
        shown = [
            score
            for score in self.scores
            if (score.settings.steps, score.guidance_scale) == (steps, guidance_scale)
        ]
        for position, name in enumerate(dict.fromkeys(score.family for score in self.scores)):
            points = sorted(
                (getattr(score, x), getattr(score, y)) for score in shown if score.family == name
            )
            if points:
                axis.plot(*zip(*points, strict=True), "o-", label=name, color=f"C{position}")
        ceiling = getattr(self.ceiling, y)
        best = max(getattr(score, y) for score in self.scores)
        # The legend names a ceiling that is out of sight, such as that of a lossless codec.
        in_sight = isfinite(ceiling) and (y != "psnr" or ceiling <= best + _SIGHT)
        axis.axhline(
            ceiling if in_sight else nan,
            color="black",
            linestyle=":",
            label=f"codec: {_decibels(ceiling)}",
        )
        costs = [getattr(score, x) for score in shown]
        if max(costs) > _WIDE * min(costs):
            _make_logarithmic(axis)
        axis.set(
            title=f"{steps} steps, guidance {guidance_scale:g}",
            xlabel=_NAMES[x],
            ylabel=f"{_NAMES[y]} of the reconstruction",
        )
        axis.grid(alpha=0.3)


_NAMES = {
    "psnr": "PSNR (dB)",
    "lpips": "LPIPS",
    "clip": "CLIPScore",
    "nfe_per_step": "network evaluations a step",
    "seconds": "seconds a photo",
}

# Costs that differ by more than this are drawn on a logarithmic axis.
_WIDE = 8.0

# A ceiling more dB above the best PSNR than this is not drawn.
_SIGHT = 30.0


def _make_logarithmic(axis: Any) -> None:
    """Makes a horizontal axis logarithmic, with plain numbers on it."""
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    shown = [tick for tick in ticks if low <= tick <= high]
    axis.set_xticks(shown, [f"{tick:g}" for tick in shown])
    axis.set_xticks([], minor=True)
    axis.set_xlim(low, high)


def _row_name(settings: InversionSettings, mode: str, guidance_scale: float) -> str:
    """What tells a row from the others of a table, in words."""
    named = f"{settings.steps} steps, guidance {guidance_scale:g}, {family(settings, mode)}"
    if "max_iterations" in idle_settings(settings.solver):
        return named
    return f"{named}, at most {counted(settings.max_iterations, 'iteration')}"


def _decibels(ceiling: float) -> str:
    return f"{ceiling:.1f} dB" if isfinite(ceiling) else "no loss"


def evaluate_inversion(
    pipeline: InversionPipeline,
    photos: Photos,
    methods: Sequence[InversionMethod],
    *,
    steps: Sequence[int],
    guidance_scales: Sequence[float],
    command: str,
    captions: CaptionChoice | None = None,
    left_out: Sequence[str] = (),
    judges: Judges = NO_JUDGES,
    on_score: Callable[[InversionScore], None] = lambda score: None,
) -> InversionTable:
    """Scores every method at every number of steps and every guidance scale.

    Args:
        pipeline: with the model; with captions an ``EditPipeline``, which asks for no word in them.
        photos: float32 (H, W, 3) RGB in [0, 1].
        methods: the rows.
        steps: numbers of DDIM steps N.
        guidance_scales: classifier-free guidance scales g.
        command: the command line, for the table.
        captions: whose photos these are; each is inverted under its caption. The model's own prompt
            for all when None.
        left_out: one line about each photo that could not be read, for the table.
        judges: what is measured beside PSNR.
        on_score: called with each score as soon as it is there.

    Returns:
        The table. A row whose latents diverge, until the network's values are not finite, is named
        in ``failed``, and the other rows are scored.

    Raises:
        ValueError: a method does not fit the model or a guidance scale; before anything is run.
        PhotoError: a photo does not decode; likewise.
        NonFiniteError: no row's values are finite.
    """
    combinations = [
        (count, guidance_scale, method)
        for count in steps
        for guidance_scale in guidance_scales
        for method in methods
    ]
    for count, guidance_scale, method in combinations:
        check_served(
            pipeline.kind.process,
            method.settings(pipeline.description, steps=count, guidance_scale=guidance_scale),
        )
        if holds(method.mode or None):
            pipeline.check_classifier_free(f"mode {method.mode}")
    prompts = None if captions is None else [photo.caption for photo in captions.photos]
    ceiling = codec_ceiling(pipeline, photos, prompts=prompts, judges=judges)
    # A first evaluation, so that the first row's time has no one-time costs.
    pipeline.invert(next(iter(photos)), num_inference_steps=steps[0], solver="ddim", depth=1)
    scores: list[InversionScore] = []
    failed: list[str] = []
    for count, guidance_scale, method in combinations:
        try:
            score = score_inversion(
                pipeline,
                photos,
                method,
                steps=count,
                guidance_scale=guidance_scale,
                prompts=prompts,
                judges=judges,
            )
        except NonFiniteError as error:
            if len(failed) + 1 == len(combinations):
                raise
            settings = method.settings(
                pipeline.description, steps=count, guidance_scale=guidance_scale
            )
            failed.append(f"{_row_name(settings, method.mode, guidance_scale)}: {error}")
            continue
        on_score(score)
        scores.append(score)
    return InversionTable(
        command,
        len(photos),
        tuple(scores),
        ceiling,
        captions,
        left_out=tuple(left_out),
        failed=tuple(failed),
    )
