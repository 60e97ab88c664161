"""How well each solver inverts, and what it costs: reconstruction against network evaluations.

Each photo is inverted, then denoised under the same prompt with the network run anew. Cost is
counted in network evaluations (NFE) of the inversion, a guided one twice, never in iterations.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dehaze.errors import DehazeError
from dehaze.eval.metrics import psnr_rgb
from dehaze.eval.perceptual import PerceptualMetric
from dehaze.inversion import (
    InversionResult,
    best_at_equal_cost,
    get_method,
    list_criteria,
    list_methods,
    list_predictors,
    list_relaxations,
)
from dehaze.inversion.criteria import root_mean_square
from dehaze.inversion.reconstruction import PLAIN, list_reconstruction_modes
from dehaze.photos import write_bytes
from dehaze.recovery.guided_filter import resize

Array = NDArray[np.float32]

PLOTS = "pip install 'dehaze-diffusion[plots]'"


class InversionEvaluationError(DehazeError, ValueError):
    """A method that cannot be read, or a plot that cannot be drawn; the message says what helps."""


BEST = "best"


@dataclass(frozen=True)
class InversionMethod:
    """One way to invert, and to come back.

    Attributes:
        solver: a registered method.
        predictor: a registered predictor.
        relaxation: a registered relaxation.
        criterion: a registered criterion.
        iterations: the solver's limit a step. None for that of ``best_at_equal_cost``.
        tolerance: relative; a step stops below it. None for that of ``best_at_equal_cost``.
        mode: a registered reconstruction mode, or ``plain``: the inversion is then at guidance 1,
            and the way back alone is guided. Empty for guidance on both ways.
    """

    solver: str
    predictor: str = "previous"
    relaxation: str = "none"
    criterion: str = "intra-path"
    iterations: int | None = 5
    tolerance: float | None = 1e-6
    mode: str = ""

    @property
    def family(self) -> str:
        """The curve of the plot that it belongs to: all but its limits."""
        parts = [] if self.predictor == "previous" else [self.predictor]
        parts += [] if self.relaxation == "none" else [self.relaxation]
        name = " + ".join([*parts, self.solver])
        name += "" if self.criterion == "intra-path" else f", until {self.criterion}"
        return name + (f", {self.mode}" if self.mode else "")

    @property
    def iterates(self) -> bool:
        """Whether it solves implicit steps."""
        return get_method(self.solver).iterates

    def settings(self, steps: int) -> dict[str, Any]:
        """What ``pipeline.invert`` takes, for N steps."""
        best = best_at_equal_cost(steps)
        return {
            "solver": self.solver,
            "predictor": self.predictor,
            "relaxation": self.relaxation,
            "criterion": self.criterion,
            "max_iterations": best["max_iterations"]
            if self.iterations is None
            else self.iterations,
            "tolerance": best["tolerance"] if self.tolerance is None else self.tolerance,
        }


def best_method() -> InversionMethod:
    """``best_at_equal_cost`` as a row of the table."""
    best = best_at_equal_cost(1)
    named = {name: best[name] for name in ("solver", "predictor", "relaxation", "criterion")}
    return InversionMethod(**named, iterations=None, tolerance=None)


_READERS: dict[str, Callable[[str], Any]] = {
    "predictor": str,
    "relaxation": str,
    "criterion": str,
    "iterations": int,
    "tolerance": float,
    "mode": str,
}


def parse_inversion_method(text: str) -> InversionMethod:
    """Reads ``best`` or ``SOLVER``, and ``:predictor=P,relaxation=R,criterion=C,...`` after it.

    ``best`` is ``dehaze.inversion.best_at_equal_cost``. The settings are those of
    ``InversionMethod``.

    Raises:
        InversionEvaluationError: a name or a number is wrong; the message lists what there is.
    """
    solver, _, rest = text.partition(":")
    names = {
        "solver": list_methods(),
        "predictor": list_predictors(),
        "relaxation": list_relaxations(),
        "criterion": list_criteria(),
        "mode": [PLAIN, *list_reconstruction_modes()],
    }
    chosen: dict[str, Any] = {}
    for setting in filter(None, rest.split(",")):
        key, _, value = setting.partition("=")
        try:
            chosen[key] = _READERS[key](value)
        except KeyError as error:
            raise InversionEvaluationError(
                f"{text!r}: no setting is named {key!r}; there are {', '.join(_READERS)}"
            ) from error
        except ValueError as error:
            raise InversionEvaluationError(f"{text!r}: {key} is no number") from error
    named = chosen if solver == BEST else {"solver": solver} | chosen
    for key, known in names.items():
        if named.get(key, known[0]) not in known:
            listed = [BEST, *known] if key == "solver" else known
            raise InversionEvaluationError(
                f"{text!r}: no {key} is named {named[key]!r}; there are {', '.join(listed)}"
            )
    method = replace(best_method(), **chosen) if solver == BEST else InversionMethod(**named)
    if (method.iterations is not None and method.iterations < 1) or not (
        method.tolerance is None or method.tolerance > 0
    ):
        raise InversionEvaluationError(f"{text!r}: iterations and tolerance must be positive")
    return method


@dataclass(frozen=True)
class InversionScore:
    """One method at one number of steps and one guidance scale, means over the photos.

    Attributes:
        method: the solver and its settings.
        steps: N.
        guidance_scale: g, of inversion and denoising alike.
        nfe_per_step: network evaluations of the inversion, a step, those included that a
            reconstruction mode takes to prepare the way back.
        psnr: of the reconstruction at the working size, in dB, unrounded.
        psnr_worst: the smallest of any photo.
        lpips: mean over the photos; NaN where it was not asked for.
        latent_error: rms of the difference of z_0 over rms of z_0.
        converged: share of steps that met the criterion.
        contractive: share of steps, of those whose constant is known, where it was below 1; NaN
            where none is.
        seconds: of the inversion, a photo.
    """

    method: InversionMethod
    steps: int
    guidance_scale: float
    nfe_per_step: float
    psnr: float
    psnr_worst: float
    lpips: float
    latent_error: float
    converged: float
    contractive: float
    seconds: float


def score_inversion(
    pipeline: Any,
    photos: Sequence[Array],
    method: InversionMethod,
    *,
    steps: int,
    guidance_scale: float = 1.0,
    lpips: PerceptualMetric | None = None,
) -> InversionScore:
    """Inverts and reconstructs every photo.

    Args:
        pipeline: a ``DehazePipeline``.
        photos: float32 (H, W, 3) RGB in [0, 1].
        method: how.
        steps: N.
        guidance_scale: g.
        lpips: the metric, loaded; None to leave it out.

    Raises:
        NonFiniteError: the network returned values that are not finite.
        ValueError: a mode that the method's trajectory cannot be held by.
    """
    perceptual: list[float] = []
    psnr, errors, evaluations, converged, seconds = [], [], [], [], 0.0
    contraction: list[float] = []
    for photo in photos:
        started = time.perf_counter()
        inversion = pipeline.invert(
            photo,
            num_inference_steps=steps,
            guidance_scale=1.0 if method.mode else guidance_scale,
            **method.settings(steps),
        )
        seconds += time.perf_counter() - started
        latents, prepared = _way_back(pipeline, inversion, method.mode, guidance_scale)
        start, size = inversion.trajectory[0], pipeline.working_size(photo)
        errors.append(float(root_mean_square(latents - start) / root_mean_square(start)))
        back, reference = pipeline.decode(latents, size), resize(photo, size)
        psnr.append(_psnr(back, reference))
        if lpips is not None:
            perceptual.append(lpips(255.0 * back, 255.0 * reference))
        nfe = inversion.trace.nfe.double()
        evaluations.append(float(nfe.mean()) + prepared / inversion.steps)
        converged.append(float(inversion.trace.converged.double().mean()))
        contraction += inversion.trace.contraction.flatten().tolist()
    known = [constant < 1.0 for constant in contraction if constant == constant]
    return InversionScore(
        method,
        steps,
        guidance_scale,
        nfe_per_step=float(np.mean(evaluations)),
        psnr=float(np.mean(psnr)),
        psnr_worst=min(psnr),
        lpips=float(np.mean(perceptual)) if perceptual else float("nan"),
        latent_error=float(np.mean(errors)),
        converged=float(np.mean(converged)),
        contractive=float(np.mean(known)) if known else float("nan"),
        seconds=seconds / len(photos),
    )


def _way_back(
    pipeline: Any, inversion: InversionResult, mode: str, guidance_scale: float
) -> tuple[Tensor, int]:
    """z_0 as it comes back, and the evaluations that a mode took to prepare it."""
    if mode in ("", PLAIN):
        return pipeline.retrace(inversion, guidance_scale=guidance_scale), 0
    anchors = pipeline.anchor(inversion, mode, guidance_scale=guidance_scale)
    return pipeline.retrace(inversion, guidance_scale=guidance_scale, anchors=anchors), anchors.nfe


def codec_ceiling(pipeline: Any, photos: Iterable[Array]) -> float:
    """Mean PSNR in dB of photos that were only encoded and decoded; infinite if none lost a bit."""
    return float(
        np.mean(
            [
                _psnr(pipeline.codec_roundtrip(photo), resize(photo, pipeline.working_size(photo)))
                for photo in photos
            ]
        )
    )


@dataclass(frozen=True)
class InversionTable:
    """A finished evaluation.

    Attributes:
        command: that made it.
        photos: how many.
        scores: a row for each method, number of steps and guidance scale.
        ceiling: of the codec, in dB.
    """

    command: str
    photos: int
    scores: tuple[InversionScore, ...]
    ceiling: float

    def rows(self) -> list[dict[str, Any]]:
        """The scores as flat rows, a value that is not finite as None."""
        rows = []
        for score in self.scores:
            flat = asdict(score.method) | asdict(score)
            del flat["method"]
            rows.append({name: _finite(value) for name, value in flat.items()})
        return rows

    def markdown(self) -> str:
        """The table, ready for the terminal and the documentation."""
        perceptual = "" if all(isnan(score.lpips) for score in self.scores) else " LPIPS |"
        lines = [
            f"{self.photos} photos at the working size, reconstruction unrounded; the codec alone: "
            f"{self.ceiling:.1f} dB.",
            "",
            f"| steps | g | method | iterations | tolerance | NFE a step | PSNR (dB) | worst (dB) "
            f"|{perceptual} latent error | converged | contractive | s a photo |",
            "| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |"
            f"{' ---: |' * bool(perceptual)} ---: | ---: | ---: | ---: |",
        ]
        for score in self.scores:
            method = score.method
            iterations, tolerance = "", ""
            if method.iterates:
                iterations = str(method.settings(score.steps)["max_iterations"])
                tolerance = f"{method.settings(score.steps)['tolerance']:.2g}"
            contractive = "" if isnan(score.contractive) else f"{100 * score.contractive:.0f} %"
            distance = f" {score.lpips:.4f} |" if perceptual else ""
            lines.append(
                f"| {score.steps} | {score.guidance_scale:g} | {method.family} "
                f"| {iterations} | {tolerance} | {score.nfe_per_step:.2f} "
                f"| {score.psnr:.2f} | {score.psnr_worst:.2f} |{distance} {score.latent_error:.1e} "
                f"| {100 * score.converged:.0f} % | {contractive} | {score.seconds:.2f} |"
            )
        return "\n".join([*lines, "", f"`{self.command}`", ""])

    def write(self, folder: Path) -> list[Path]:
        """Writes inversion.json, .csv, .md and .png; returns their paths.

        Raises:
            InversionEvaluationError: matplotlib is missing, which draws the plot.
            PhotoError: a file cannot be written.
        """
        plot = self.plot()
        rows = self.rows()
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        content = {"command": self.command, "photos": self.photos, "scores": rows}
        content["codec_psnr"] = _finite(self.ceiling)
        files = {
            "inversion.json": json.dumps(content, indent=1, allow_nan=False).encode(),
            "inversion.csv": buffer.getvalue().encode(),
            "inversion.md": self.markdown().encode(),
            "inversion.png": plot,
        }
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_bytes(folder / name, data)
        return [folder / name for name in files]

    def plot(self) -> bytes:
        """PSNR against NFE a step as PNG, a panel for each number of steps and guidance scale.

        Raises:
            InversionEvaluationError: matplotlib is missing.
        """
        figure_class = import_figure()
        panels = list(dict.fromkeys((score.steps, score.guidance_scale) for score in self.scores))
        figure = figure_class(figsize=(4.6 * len(panels) + 1.8, 4.2), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        families = list(dict.fromkeys(score.method.family for score in self.scores))
        best = max(score.psnr for score in self.scores)
        for axis, (steps, guidance_scale) in zip(axes, panels, strict=True):
            for position, family in enumerate(families):
                points = sorted(
                    (score.nfe_per_step, score.psnr)
                    for score in self.scores
                    if score.method.family == family
                    and (score.steps, score.guidance_scale) == (steps, guidance_scale)
                )
                if points:
                    axis.plot(*zip(*points, strict=True), "o-", label=family, color=f"C{position}")
            # A lossless codec's ceiling is at infinity and cannot be drawn.
            axis.plot(
                axis.get_xlim(),
                [_finite(self.ceiling) or np.nan] * 2,
                "k:",
                label=f"codec, {self.ceiling:.0f} dB",
            )
            axis.set(
                title=f"{steps} steps, guidance {guidance_scale:g}",
                xlabel="NFE a step",
                ylabel="reconstruction PSNR (dB)",
                ylim=(None, min(self.ceiling, best) + 3.0),
            )
            axis.grid(alpha=0.3)
        axes[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small")
        return as_png(figure)


def evaluate_inversion(
    pipeline: Any,
    photos: Sequence[Array],
    methods: Sequence[InversionMethod],
    *,
    steps: Sequence[int],
    guidance_scales: Sequence[float],
    command: str,
    lpips: PerceptualMetric | None = None,
    on_score: Callable[[InversionScore], None] = lambda score: None,
) -> InversionTable:
    """Scores every method at every number of steps and guidance scale."""
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


def import_figure() -> Any:
    """matplotlib's Figure, which draws without a window.

    Raises:
        InversionEvaluationError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InversionEvaluationError(f"plots need matplotlib; {PLOTS}") from error
    return Figure


def as_png(figure: Any) -> bytes:
    """A matplotlib figure as PNG, without the date and version that would make each one differ."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _psnr(picture: Array, reference: Array) -> float:
    return psnr_rgb(255.0 * picture.astype(np.float64), 255.0 * reference.astype(np.float64))


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
