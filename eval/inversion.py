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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dehaze.eval.metrics import psnr_rgb
from dehaze.images import write_bytes
from dehaze.inversion import list_criteria, list_methods, list_predictors
from dehaze.inversion.criteria import root_mean_square
from dehaze.physics import resize

Array = NDArray[np.float32]

PLOTS = "pip install 'dehaze[plots]'"


class InversionEvaluationError(ValueError):
    """A method that cannot be read, or a plot that cannot be drawn; the message says what helps."""


@dataclass(frozen=True)
class InversionMethod:
    """One way to invert.

    Attributes:
        solver: a registered solver.
        predictor: a registered predictor.
        criterion: a registered criterion.
        iterations: the solver's limit a step.
        tolerance: relative; a step stops below it.
    """

    solver: str
    predictor: str = "previous"
    criterion: str = "intra-path"
    iterations: int = 5
    tolerance: float = 1e-6

    @property
    def family(self) -> str:
        """The curve of the plot that it belongs to: all but its limits."""
        parts = [self.predictor] if self.predictor != "previous" else []
        parts.append(self.solver)
        if self.criterion != "intra-path":
            parts.append(f"until {self.criterion}")
        return " + ".join(parts[:2]) + "".join(f", {part}" for part in parts[2:])


def parse_inversion_method(text: str) -> InversionMethod:
    """Reads ``SOLVER`` or ``SOLVER:predictor=P,criterion=C,iterations=K,tolerance=T``.

    Raises:
        InversionEvaluationError: a name or a number is wrong; the message lists what there is.
    """
    solver, _, rest = text.partition(":")
    names = {"solver": list_methods(), "predictor": list_predictors(), "criterion": list_criteria()}
    chosen: dict[str, Any] = {"solver": solver}
    for setting in filter(None, rest.split(",")):
        key, _, value = setting.partition("=")
        try:
            chosen[key] = {
                "predictor": str,
                "criterion": str,
                "iterations": int,
                "tolerance": float,
            }[key](value)
        except KeyError as error:
            raise InversionEvaluationError(
                f"{text!r}: no setting is named {key!r}; there are predictor, criterion, "
                "iterations, tolerance"
            ) from error
        except ValueError as error:
            raise InversionEvaluationError(f"{text!r}: {key} is no number") from error
    for key, known in names.items():
        if chosen.get(key, known[0]) not in known:
            raise InversionEvaluationError(
                f"{text!r}: no {key} is named {chosen[key]!r}; there are {', '.join(known)}"
            )
    method = InversionMethod(**chosen)
    if method.iterations < 1 or not method.tolerance > 0:
        raise InversionEvaluationError(f"{text!r}: iterations and tolerance must be positive")
    return method


@dataclass(frozen=True)
class InversionScore:
    """One method at one number of steps and one guidance scale, means over the photos.

    Attributes:
        method: the solver and its settings.
        steps: N.
        guidance_scale: g, of inversion and denoising alike.
        nfe_per_step: network evaluations of the inversion, a step.
        psnr: of the reconstruction at the working size, in dB, unrounded.
        psnr_worst: the smallest of any photo.
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
) -> InversionScore:
    """Inverts and reconstructs every photo.

    Args:
        pipeline: a ``DehazePipeline``.
        photos: float32 (H, W, 3) RGB in [0, 1].
        method: how.
        steps: N.
        guidance_scale: g.

    Raises:
        NonFiniteError: the network returned values that are not finite.
    """
    psnr, errors, evaluations, converged, seconds = [], [], [], [], 0.0
    contraction: list[float] = []
    for photo in photos:
        started = time.perf_counter()
        inversion = pipeline.invert(
            photo,
            steps=steps,
            solver=method.solver,
            predictor=method.predictor,
            criterion=method.criterion,
            max_iterations=method.iterations,
            tolerance=method.tolerance,
            guidance_scale=guidance_scale,
        )
        seconds += time.perf_counter() - started
        latents = pipeline.retrace(inversion, guidance_scale=guidance_scale)
        start, size = inversion.trajectory[0], pipeline.working_size(photo)
        errors.append(float(root_mean_square(latents - start) / root_mean_square(start)))
        psnr.append(_psnr(pipeline.decode(latents, size), resize(photo, size)))
        evaluations.append(float(inversion.trace.nfe.double().mean()))
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
        latent_error=float(np.mean(errors)),
        converged=float(np.mean(converged)),
        contractive=float(np.mean(known)) if known else float("nan"),
        seconds=seconds / len(photos),
    )


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
        lines = [
            f"{self.photos} photos at the working size, reconstruction unrounded; the codec alone: "
            f"{self.ceiling:.1f} dB.",
            "",
            "| steps | g | solver | iterations | tolerance | NFE a step | PSNR (dB) | worst (dB) "
            "| latent error | converged | contractive | s a photo |",
            "| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for score in self.scores:
            method = score.method
            contractive = (
                ""
                if score.contractive != score.contractive
                else (f"{100 * score.contractive:.0f} %")
            )
            lines.append(
                f"| {score.steps} | {score.guidance_scale:g} | {method.family} "
                f"| {method.iterations} | {method.tolerance:g} | {score.nfe_per_step:.2f} "
                f"| {score.psnr:.2f} | {score.psnr_worst:.2f} | {score.latent_error:.1e} "
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
