"""Every way to invert at every number of steps and guidance: the table, and its plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import isfinite, isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dehaze.eval.files import finite, write_table
from dehaze.eval.inversion.methods import InversionMethod
from dehaze.eval.inversion.scores import InversionScore, codec_ceiling, score_inversion
from dehaze.eval.perceptual import PerceptualMetric
from dehaze.eval.plots import as_png, import_figure
from dehaze.inversion.solvers import idle_settings

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
        ceiling: PSNR of the codec alone, in dB.
    """

    command: str
    photos: int
    scores: tuple[InversionScore, ...]
    ceiling: float

    def rows(self) -> list[dict[str, Any]]:
        """The scores as flat rows; a value that is infinite or NaN is None."""
        rows = []
        for score in self.scores:
            flat = asdict(score.settings) | {"mode": score.method.mode} | asdict(score)
            del flat["method"], flat["settings"]
            rows.append(finite(flat))
        return rows

    def markdown(self) -> str:
        """The table, ready for the terminal and the documentation."""
        perceptual = "" if all(isnan(score.lpips) for score in self.scores) else " LPIPS |"
        lines = [
            f"{self.photos} photos at the working size, reconstruction unrounded; the codec alone: "
            f"{self.ceiling:.1f} dB.",
            "",
            "| steps | g | method | iterations | tolerance | evaluations a step | PSNR (dB) "
            f"| worst (dB) |{perceptual} latent error | converged | contractive | s a photo |",
            "| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |"
            f"{' ---: |' * bool(perceptual)} ---: | ---: | ---: | ---: |",
        ]
        for score in self.scores:
            settings = score.settings
            iterations, tolerance = "", ""
            if "max_iterations" not in idle_settings(settings.solver):
                iterations, tolerance = str(settings.max_iterations), f"{settings.tolerance:.2g}"
            contractive = "" if isnan(score.contractive) else f"{100 * score.contractive:.0f} %"
            converged = "" if isnan(score.converged) else f"{100 * score.converged:.0f} %"
            distance = f" {score.lpips:.4f} |" if perceptual else ""
            lines.append(
                f"| {settings.steps} | {score.guidance_scale:g} | {score.family} "
                f"| {iterations} | {tolerance} | {score.nfe_per_step:.2f} "
                f"| {score.psnr:.2f} | {score.psnr_worst:.2f} |{distance} {score.latent_error:.1e} "
                f"| {converged} | {contractive} | {score.seconds:.2f} |"
            )
        return "\n".join([*lines, "", f"`{self.command}`", ""])

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
                "scores": rows,
                "codec_psnr": self.ceiling,
            },
            columns=list(rows[0]),
            rows=rows,
            markdown=self.markdown(),
            plot=plot,
        )

    def plot(self) -> bytes:
        """PSNR over network evaluations a step, as a PNG file.

        There is a panel for each number of steps and guidance scale, a curve for each family.

        Raises:
            PlotsMissingError: matplotlib is missing.
        """
        figure_class = import_figure()
        panels = list(
            dict.fromkeys((score.settings.steps, score.guidance_scale) for score in self.scores)
        )
        figure = figure_class(figsize=(4.6 * len(panels) + 1.8, 4.2), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        families = list(dict.fromkeys(score.family for score in self.scores))
        best = max(score.psnr for score in self.scores)
        for axis, (steps, guidance_scale) in zip(axes, panels, strict=True):
            for position, family in enumerate(families):
                points = sorted(
                    (score.nfe_per_step, score.psnr)
                    for score in self.scores
                    if score.family == family
                    and (score.settings.steps, score.guidance_scale) == (steps, guidance_scale)
                )
                if points:
                    axis.plot(*zip(*points, strict=True), "o-", label=family, color=f"C{position}")
            # A lossless codec's ceiling is at infinity and cannot be drawn.
            axis.plot(
                axis.get_xlim(),
                [self.ceiling if isfinite(self.ceiling) else nan] * 2,
                "k:",
                label=f"codec, {self.ceiling:.0f} dB",
            )
            axis.set(
                title=f"{steps} steps, guidance {guidance_scale:g}",
                xlabel="network evaluations a step",
                ylabel="reconstruction PSNR (dB)",
                ylim=(None, min(self.ceiling, best) + 3.0),
            )
            axis.grid(alpha=0.3)
        axes[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small")
        return as_png(figure)


def evaluate_inversion(
    pipeline: InversionPipeline,
    photos: Sequence[Array],
    methods: Sequence[InversionMethod],
    *,
    steps: Sequence[int],
    guidance_scales: Sequence[float],
    command: str,
    lpips: PerceptualMetric | None = None,
    on_score: Callable[[InversionScore], None] = lambda score: None,
) -> InversionTable:
    """Scores every method at every number of steps and every guidance scale.

    Args:
        pipeline: with the model.
        photos: float32 (H, W, 3) RGB in [0, 1].
        methods: the rows.
        steps: numbers of DDIM steps N.
        guidance_scales: classifier-free guidance scales g.
        command: the command line, for the table.
        lpips: the loaded metric; None to leave it out.
        on_score: called with each score as soon as it is there.
    """
    scores = []
    for count in steps:
        for guidance_scale in guidance_scales:
            for method in methods:
                score = score_inversion(
                    pipeline,
                    photos,
                    method,
                    steps=count,
                    guidance_scale=guidance_scale,
                    lpips=lpips,
                )
                on_score(score)
                scores.append(score)
    return InversionTable(command, len(photos), tuple(scores), codec_ceiling(pipeline, photos))
