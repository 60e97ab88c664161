"""The error of each predictor's guess of z_i, before any iteration.

The errors of all entries of the latents of all photos are pooled, step by step: their mean, their
variance and their histogram. An estimator is unbiased where the mean is 0.

Source: IFE, arXiv 2512.08547, whose abstract calls its estimate unbiased and of low variance, and
whose figure 2 is of its error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dehaze.eval.files import finite, told_left_out, write_table
from dehaze.eval.plots import as_png, evenly_spread, import_figure
from dehaze.inversion import PREDICTORS
from dehaze.wording import counted_of

if TYPE_CHECKING:
    from dehaze.pipelines.base import InversionPipeline

Array = NDArray[np.float32]

SOLVED = 1e-6
"""Relative residual of the solutions that the guesses are compared with."""

_LONGEST = 60
_BINS = 121
_PANELS = 4


@dataclass(frozen=True)
class GuessErrors:
    """The errors guess - z_i of one predictor at one step, in the units of the latents.

    Attributes:
        predictor: its name in ``dehaze.inversion.PREDICTORS``.
        step: i.
        timestep: tau_i.
        solved: the number of photos whose step was solved to ``SOLVED``; only these count.
        mean: of the errors of all entries; NaN where no step was solved, as are the next two.
        variance: around that mean.
        relative: rms of the errors over rms of z_i.
        counts: of the histogram, a count for each bin.
        edges: of its bins, one more than there are counts. All predictors of a step share them.
    """

    predictor: str
    step: int
    timestep: float
    solved: int
    mean: float
    variance: float
    relative: float
    counts: tuple[int, ...]
    edges: tuple[float, ...]


@dataclass(frozen=True)
class PredictorStudy:
    """The errors of every predictor at every step.

    Attributes:
        command: the command line that made the study.
        photos: how many were inverted.
        errors: step 1 first, the predictors in the registry's order at each step.
        left_out: one line about each photo that could not be read.
    """

    command: str
    photos: int
    errors: tuple[GuessErrors, ...]
    left_out: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """N, the number of steps."""
        return max(one.step for one in self.errors)

    def of_predictor(self, name: str) -> list[GuessErrors]:
        """The errors of one predictor, step 1 first."""
        return [one for one in self.errors if one.predictor == name]

    def bias(self, name: str) -> float:
        """Share of a predictor's mean square error that is bias, in [0, 1], from step 2 on.

        The sum of the squared means over the sum of the mean square errors. At step 1 nothing is
        known to guess from, and every predictor guesses z_0. NaN where there is no other step.
        """
        known = [one for one in self.of_predictor(name) if one.solved and one.step > 1]
        squares = sum(one.mean**2 for one in known)
        total = squares + sum(one.variance for one in known)
        return squares / total if total > 0.0 else nan

    def markdown(self) -> str:
        """The table, ready for the terminal and the documentation."""
        names = list(dict.fromkeys(one.predictor for one in self.errors))
        header = " | ".join(f"{name}: mean | variance | relative" for name in names)
        photos = counted_of(self.photos, self.photos + len(self.left_out), "photo")
        lines = [
            f"{photos}. The error of a guess of z_i, in the units of the latents, against the "
            f"solution of the step (relative residual below {SOLVED:g}); relative: rms of the "
            "error over rms of z_i.",
            "",
            f"| step | timestep | solved | {header} |",
            f"| ---: | ---: | ---: |{' ---: | ---: | ---: |' * len(names)}",
        ]
        for i in range(1, self.steps + 1):
            row = [one for one in self.errors if one.step == i]
            cells = " | ".join(
                f"{one.mean:+.1e} | {one.variance:.1e} | {100 * one.relative:.2f} %"
                if one.solved
                else " |  | "
                for one in row
            )
            lines.append(f"| {i} | {row[0].timestep:g} | {row[0].solved} | {cells} |")
        biases = {name: self.bias(name) for name in names}
        known = [f"`{name}` {100 * bias:.1f} %" for name, bias in biases.items() if not isnan(bias)]
        if known:
            lines += [
                "",
                f"Share of bias in the mean square error from step 2 on: {', '.join(known)}.",
            ]
        return "\n".join([*lines, *told_left_out(self.left_out), "", f"`{self.command}`", ""])

    def write(self, folder: Path) -> list[Path]:
        """Writes predictors.json, .csv, .md and .png; returns their paths.

        Raises:
            PlotsMissingError: matplotlib, which draws the plot, is missing.
            PhotoError: a file cannot be written.
        """
        plot = self.plot()
        errors = [asdict(one) for one in self.errors]
        columns = [name for name in errors[0] if name not in ("counts", "edges")]
        return write_table(
            folder,
            "predictors",
            content={
                "command": self.command,
                "photos": self.photos,
                "left_out": self.left_out,
                "errors": errors,
            },
            columns=columns,
            rows=[finite({name: one[name] for name in columns}) for one in errors],
            markdown=self.markdown(),
            plot=plot,
        )

    def plot(self) -> bytes:
        """Mean and variance over the steps, and the histograms of up to four of them, as PNG.

        Raises:
            PlotsMissingError: matplotlib is missing.
        """
        shown = evenly_spread(self.steps, _PANELS)
        figure = import_figure()(figsize=(3.2 * max(len(shown), 2), 6.0), layout="constrained")
        above, below = figure.subfigures(2, 1)
        means, variances = above.subplots(1, 2)
        histograms = below.subplots(1, len(shown), squeeze=False)[0]
        for position, name in enumerate(dict.fromkeys(one.predictor for one in self.errors)):
            errors = self.of_predictor(name)
            steps = [one.step for one in errors]
            look = {"color": f"C{position}", "label": name}
            means.plot(steps, [one.mean for one in errors], "o-", **look)
            # An error of 0 has no place on a logarithmic axis.
            variances.semilogy(steps, [one.variance or nan for one in errors], "o-", **look)
            for axis, i in zip(histograms, shown, strict=True):
                one = errors[i - 1]
                axis.stairs(_density(one), one.edges, fill=position == 0, alpha=0.7, **look)
                axis.set_title(f"step {i} of {self.steps}, timestep {one.timestep:g}", fontsize=9)
        means.axhline(0.0, color="black", linewidth=0.8)
        means.set(xlabel="step", ylabel="mean of the error")
        variances.set(xlabel="step", ylabel="variance of the error")
        for axis in (means, variances, *histograms):
            axis.grid(alpha=0.3)
        for axis in histograms:
            axis.set(xlabel="error", yscale="symlog")
        histograms[0].set_ylabel("density")
        means.legend(fontsize="small")
        return as_png(figure)


def _density(errors: GuessErrors) -> NDArray[np.float64]:
    widths = np.diff(errors.edges)
    counts = np.array(errors.counts, dtype=np.float64)
    return counts / (max(counts.sum(), 1.0) * widths)


def study_predictors(
    pipeline: InversionPipeline,
    photos: Sequence[Array],
    *,
    steps: int,
    command: str,
    left_out: Sequence[str] = (),
) -> PredictorStudy:
    """Solves every step of every photo, and compares the predictors' guesses with it.

    A guess is made from the solved path, so that no error of a step reaches the next one.

    Args:
        pipeline: with the model.
        photos: float32 (H, W, 3) RGB in [0, 1].
        steps: N.
        command: the command line, for the table.
        left_out: one line about each photo that could not be read, for the table.

    Raises:
        NonFiniteError: the network returned values that are not finite.
    """
    settings = pipeline.description.inversion.changed(
        steps=steps,
        solver="anderson",
        criterion="residual",
        tolerance=SOLVED,
        max_iterations=_LONGEST,
    )
    names = PREDICTORS.names()
    errors: list[dict[str, list[Array]]] = [{name: [] for name in names} for _ in range(steps)]
    solutions: list[list[Array]] = [[] for _ in range(steps)]
    timesteps = [nan] * steps
    for photo in photos:
        inversion = pipeline.invert(photo, settings=settings, record_attention=False)
        path, noise = inversion.trajectory.unbind(), inversion.noise.unbind()
        for i in range(1, steps + 1):
            timesteps[i - 1] = inversion.table.timestep(i)
            if not inversion.trace.converged[i - 1, 0]:
                continue
            solutions[i - 1].append(path[i].cpu().numpy().ravel())
            for name in names:
                guess = PREDICTORS.get(name).predict(inversion.table, i, path[:i], noise[: i - 1])
                errors[i - 1][name].append((guess - path[i]).cpu().numpy().ravel())
    return PredictorStudy(
        command,
        len(photos),
        tuple(
            one
            for i in range(1, steps + 1)
            for one in _errors_of_step(i, timesteps[i - 1], errors[i - 1], solutions[i - 1])
        ),
        tuple(left_out),
    )


def _errors_of_step(
    i: int, timestep: float, errors: Mapping[str, list[Array]], solutions: list[Array]
) -> list[GuessErrors]:
    """The errors of every predictor's guesses at step i, photo by photo."""
    solved = len(solutions)
    pooled = {
        name: np.concatenate([np.empty(0, np.float32), *each]).astype(np.float64)
        for name, each in errors.items()
    }
    reach = max((float(abs(each).max(initial=0.0)) for each in pooled.values()), default=0.0)
    edges = np.linspace(-1.0, 1.0, _BINS + 1) * (reach or 1.0)
    size = np.concatenate([np.empty(0, np.float32), *solutions]).astype(np.float64)
    found = []
    for name, each in pooled.items():
        counts = np.histogram(each, edges)[0]
        found.append(
            GuessErrors(
                name,
                i,
                timestep,
                solved,
                mean=float(each.mean()) if solved else nan,
                variance=float(each.var()) if solved else nan,
                relative=float(np.sqrt(np.mean(each**2) / np.mean(size**2))) if solved else nan,
                counts=tuple(int(count) for count in counts),
                edges=tuple(float(edge) for edge in edges),
            )
        )
    return found
