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
from dataclasses import asdict, dataclass, field, replace
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dehaze.errors import DehazeError
from dehaze.eval.metrics import psnr_rgb
from dehaze.eval.perceptual import PerceptualMetric
from dehaze.eval.plots import as_png, import_figure
from dehaze.inversion import (
    CRITERIA,
    PREDICTORS,
    RELAXATIONS,
    SOLVERS,
    InversionOptions,
    InversionResult,
    InversionSettings,
    Solver,
    denoise,
)
from dehaze.inversion.criteria import root_mean_square
from dehaze.inversion.denoising import unrevised
from dehaze.inversion.reconstruction import PLAIN, RECONSTRUCTION_MODES, Anchors
from dehaze.models.needs import ModelDescription
from dehaze.photos import write_bytes
from dehaze.pipelines.pictures import as_pixels

Array = NDArray[np.float32]


class InversionEvaluationError(DehazeError, ValueError):
    """A method that cannot be read; the message says what there is."""


BEST = "best"


@dataclass(frozen=True)
class InversionMethod:
    """One way to invert, and to come back: a row of the table.

    Attributes:
        name: ``best`` for the model's ``reconstructing`` settings, or a registered solver, which
            then runs as it was published, five iterations a step at most, to 1e-6.
        options: settings in place of those.
        mode: a registered reconstruction mode, or ``plain``: the inversion is then at guidance 1,
            and the way back alone is guided. Empty for guidance on both ways.
    """

    name: str
    options: InversionOptions = field(default_factory=lambda: InversionOptions())
    mode: str = ""

    def settings(
        self, description: ModelDescription, *, steps: int, guidance_scale: float
    ) -> InversionSettings:
        """How a model inverts a photo, where the table's row is at guidance g."""
        g = 1.0 if self.mode else guidance_scale
        if self.name == BEST:
            base = description.reconstructing(steps)
        else:
            named = description.inversion.changed(steps=steps, solver=self.name)
            base = replace(named, max_iterations=5, tolerance=1e-6)
        return base.changed(guidance_scale=g, **self.options)


def family(settings: InversionSettings, mode: str) -> str:
    """The curve of the plot that a row belongs to: all but its limits."""
    parts = [] if settings.predictor == "previous" else [settings.predictor]
    parts += [] if settings.relaxation == "none" else [settings.relaxation]
    name = " + ".join([*parts, settings.solver])
    name += "" if settings.criterion == "intra-path" else f", until {settings.criterion}"
    return name + (f", {mode}" if mode else "")


_READERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "predictor": ("predictor", str),
    "relaxation": ("relaxation", str),
    "criterion": ("criterion", str),
    "iterations": ("max_iterations", int),
    "tolerance": ("tolerance", float),
    "mode": ("mode", str),
}


def parse_inversion_method(text: str) -> InversionMethod:
    """Reads ``best`` or ``SOLVER``, and ``:predictor=P,relaxation=R,criterion=C,...`` after it.

    Raises:
        InversionEvaluationError: a name or a number is wrong; the message lists what there is.
    """
    name, _, rest = text.partition(":")
    chosen: dict[str, Any] = {}
    for setting in filter(None, rest.split(",")):
        key, _, value = setting.partition("=")
        if key not in _READERS:
            raise InversionEvaluationError(
                f"{text!r}: no setting is named {key!r}; there are {', '.join(_READERS)}"
            )
        field_name, read = _READERS[key]
        try:
            chosen[field_name] = read(value)
        except ValueError as error:
            raise InversionEvaluationError(f"{text!r}: {key} is no number") from error
    _require_names(text, {"solver": name} | chosen)
    mode = chosen.pop("mode", "")
    try:
        InversionSettings().changed(solver=None if name == BEST else name, **chosen)
    except ValueError as error:
        raise InversionEvaluationError(f"{text!r}: {error}") from error
    return InversionMethod(name, InversionOptions(**chosen), mode)  # type: ignore[typeddict-item]


def _require_names(text: str, chosen: dict[str, Any]) -> None:
    names = {
        "solver": [BEST, *SOLVERS.names()],
        "predictor": PREDICTORS.names(),
        "relaxation": RELAXATIONS.names(),
        "criterion": CRITERIA.names(),
        "mode": [PLAIN, *RECONSTRUCTION_MODES.names()],
    }
    for key, known in names.items():
        if chosen.get(key, known[0]) not in known:
            raise InversionEvaluationError(
                f"{text!r}: no {key} is named {chosen[key]!r}; there are {', '.join(known)}"
            )


@dataclass(frozen=True)
class InversionScore:
    """One method at one number of steps and one guidance scale, means over the photos.

    Attributes:
        method: the row.
        settings: how it inverted.
        guidance_scale: g, of the way back, and of the inversion where there is no mode.
        nfe_per_step: network evaluations of the inversion, a step, those included that a
            reconstruction mode takes to prepare the way back.
        psnr: of the reconstruction at the working size, in dB, unrounded.
        psnr_worst: the smallest of any photo.
        lpips: mean over the photos; NaN where it was not asked for.
        latent_error: rms of the difference of z_0 over rms of z_0.
        converged: share of steps whose f(z) - z was evaluated and below the tolerance; NaN where
            it was evaluated at none.
        contractive: share of steps, of those whose constant is known, where it was below 1; NaN
            where none is.
        seconds: of the inversion, a photo.
    """

    method: InversionMethod
    settings: InversionSettings
    guidance_scale: float
    nfe_per_step: float
    psnr: float
    psnr_worst: float
    lpips: float
    latent_error: float
    converged: float
    contractive: float
    seconds: float

    @property
    def family(self) -> str:
        """The curve of the plot that it belongs to."""
        return family(self.settings, self.method.mode)


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
    settings = method.settings(pipeline.description, steps=steps, guidance_scale=guidance_scale)
    perceptual: list[float] = []
    psnr, errors, evaluations, converged, seconds = [], [], [], [], 0.0
    contraction: list[float] = []
    for photo in photos:
        started = time.perf_counter()
        inversion = pipeline.invert(photo, settings=settings)
        seconds += time.perf_counter() - started
        anchors = None
        if method.mode not in ("", PLAIN):
            anchors = pipeline.anchor(inversion, method.mode, guidance_scale=guidance_scale)
        latents = retrace(pipeline, inversion, guidance_scale=guidance_scale, anchors=anchors)
        start, size = inversion.trajectory[0], pipeline.codec.working_size(photo)
        errors.append(float(root_mean_square(latents - start) / root_mean_square(start)))
        back, reference = pipeline.codec.decode(latents, size), pipeline.codec.reduced(photo)
        psnr.append(_psnr(back, reference))
        if lpips is not None:
            perceptual.append(lpips(255.0 * back, 255.0 * reference))
        nfe = inversion.trace.nfe.double()
        prepared = 0 if anchors is None else anchors.nfe
        evaluations.append(float(nfe.mean()) + prepared / inversion.steps)
        evaluated = ~inversion.trace.remaining.isnan()
        converged += inversion.trace.converged[evaluated].tolist()
        contraction += inversion.trace.contraction.flatten().tolist()
    known = [constant < 1.0 for constant in contraction if constant == constant]
    return InversionScore(
        method,
        settings,
        guidance_scale,
        nfe_per_step=float(np.mean(evaluations)),
        psnr=float(np.mean(psnr)),
        psnr_worst=min(psnr),
        lpips=float(np.mean(perceptual)) if perceptual else float("nan"),
        latent_error=float(np.mean(errors)),
        converged=float(np.mean(converged)) if converged else float("nan"),
        contractive=float(np.mean(known)) if known else float("nan"),
        seconds=seconds / len(photos),
    )


def codec_roundtrip(pipeline: Any, image: Any) -> Array:
    """The photo at the working size, encoded and decoded: float32 (h, w, 3) in [0, 1]."""
    photo = as_pixels(image)
    with torch.no_grad():
        return pipeline.codec.decode(
            pipeline.codec.encode(photo), pipeline.codec.working_size(photo)
        )


def codec_ceiling(pipeline: Any, photos: Iterable[Array]) -> float:
    """Mean PSNR in dB of photos that were only encoded and decoded; infinite if none lost a bit."""
    return float(
        np.mean(
            [
                _psnr(codec_roundtrip(pipeline, photo), pipeline.codec.reduced(photo))
                for photo in photos
            ]
        )
    )


@torch.no_grad()
def retrace(
    pipeline: Any,
    inversion: InversionResult,
    *,
    guidance_scale: float = 1.0,
    anchors: Anchors | None = None,
) -> Tensor:
    """z_0 as denoising under the inversion's own prompt gives it, the network run anew.

    What it differs by from ``inversion.trajectory[0]`` is the inversion's error.

    Args:
        pipeline: that made the inversion.
        inversion: from ``pipeline.invert`` or ``pipeline.generate``.
        guidance_scale: g.
        anchors: from ``pipeline.anchor``: what holds a guided way back from an inversion at
            guidance 1.

    Raises:
        NonFiniteError: the network returned values that are not finite.
    """
    network = pipeline.prompted_network(
        inversion.table,
        inversion.own_prompt(),
        guidance_scale=guidance_scale,
        unconditional=None if anchors is None else anchors.unconditional,
    )
    return denoise(inversion, network, revise=unrevised if anchors is None else anchors.held)


def reconstruct(
    pipeline: Any,
    image: Any,
    prompt: str | None = None,
    *,
    guidance_scale: float = 1.0,
    mode: str | None = None,
    **settings: Any,
) -> tuple[Array, Array]:
    """The photo at the working size, and what denoising makes of its inversion.

    The network runs again on the way back, under the same prompt: the pair measures how exact the
    inversion is.

    Args:
        pipeline: a ``DehazePipeline``.
        image: as for ``pipeline.invert``, as are ``prompt`` and ``settings``.
        guidance_scale: g, of both ways; with a mode, of the way back alone.
        mode: what holds the guided way back of an inversion that is then at guidance 1, see
            ``dehaze.inversion.reconstruction``; ``plain`` for nothing.

    Returns:
        two float32 (h, w, 3) pictures in [0, 1], working size.
    """
    photo = as_pixels(image)
    there = guidance_scale if mode is None else 1.0
    inversion = pipeline.invert(photo, prompt, guidance_scale=there, **settings)
    anchors = None
    if mode not in (None, PLAIN):
        anchors = pipeline.anchor(inversion, mode, guidance_scale=guidance_scale)
    latents = retrace(pipeline, inversion, guidance_scale=guidance_scale, anchors=anchors)
    return pipeline.codec.reduced(photo), pipeline.codec.decode(
        latents, pipeline.codec.working_size(photo)
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
            flat = asdict(score.settings) | {"mode": score.method.mode} | asdict(score)
            del flat["method"], flat["settings"]
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
            settings = score.settings
            iterations, tolerance = "", ""
            if isinstance(SOLVERS.get(settings.solver), Solver):
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
            PlotsMissingError: matplotlib is missing, which draws the plot.
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


def _psnr(picture: Array, reference: Array) -> float:
    return psnr_rgb(255.0 * picture.astype(np.float64), 255.0 * reference.astype(np.float64))


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
