"""How steps of inversions converge: Banach's bound, Anderson and Picard, one path and two.

Every step is solved anew from the z_{i-1} of a precise inversion, so that no error reaches the next
step. It is compared with a solution of relative residual 1e-7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dehaze.eval.files import told_left_out
from dehaze.eval.plots import as_png, import_figure
from dehaze.eval.probes import solve_steps
from dehaze.inversion import InversionResult
from dehaze.inversion.criteria import root_mean_square
from dehaze.wording import counted_of

if TYPE_CHECKING:
    from dehaze.pipelines.base import InversionPipeline

Array = NDArray[np.float32]

SETTLED = 1e-7
"""Relative residual of the reference solutions, which float32 reaches."""

CERTIFIED = {
    "Picard 2": ("fixed-point", 2),
    "Picard 3": ("fixed-point", 3),
    "Anderson 4": ("anderson", 4),
}
"""Solver and iterations after which the bound is compared with the error, by name."""

RACE_TOLERANCE = 1e-4
"""Tolerance to which Anderson and Picard solve each step."""

VANISHED = 1e-2
"""A residual below this counts as gone."""

_LONGEST = 40
_RACE_LIMIT = 30
_TWO_PATHS = 10


@dataclass(frozen=True)
class StepStudy:
    """Results at one number of steps N, over M photos.

    Attributes:
        steps: N.
        photos: M.
        settled: share of the steps that were solved to ``SETTLED``; only these are compared.
        certified: share of the steps where Banach's bound was at least the true error, by name
            in ``CERTIFIED``; NaN where no step was settled.
        tightness: median of bound / error, likewise, infinite bounds included.
        contractive: share of the steps whose constant was below 1 after three Picard iterations.
        picard, anderson: int64 (M, N), evaluations until the residual is below 1e-4, 30 at most.
        intra, inter: (M, N, K), both residuals of Picard on two paths, started from z_{i-1} and
            from noise.
    """

    steps: int
    photos: int
    settled: float
    certified: dict[str, float]
    tightness: dict[str, float]
    contractive: float
    picard: NDArray[np.int64]
    anderson: NDArray[np.int64]
    intra: NDArray[np.float64]
    inter: NDArray[np.float64]

    @property
    def anderson_held(self) -> float:
        """Share of the steps where Anderson took at most a tenth more than Picard."""
        return float((self.anderson <= 1.1 * self.picard).mean())

    @property
    def anderson_worst(self) -> int:
        """The most evaluations that Anderson took more than Picard at any step."""
        return int((self.anderson - self.picard).max())

    @property
    def order(self) -> tuple[float, float, float]:
        """Shares of steps where the intra-path residual is below 1e-2 first, at once, or last.

        First and last are against the inter-path residual. A residual that never falls is last.
        """
        first, second = (_fell(values) for values in (self.intra, self.inter))
        return tuple(  # type: ignore[return-value]
            float(share.mean()) for share in (first < second, first == second, first > second)
        )

    def markdown(self) -> str:
        """One row of the table."""
        certified = " | ".join(
            f"{100 * self.certified[name]:.1f} % ({self.tightness[name]:.1f})"
            if self.settled > 0.0
            else "none settled"
            for name in CERTIFIED
        )
        before, together, after = (f"{100 * share:.0f} %" for share in self.order)
        return (
            f"| {self.steps} | {100 * self.settled:.0f} % | {certified} "
            f"| {100 * self.contractive:.0f} % | {self.picard.mean():.2f} "
            f"| {self.anderson.mean():.2f} | {100 * self.anderson_held:.1f} % "
            f"| {self.anderson_worst:+d} | {before} | {together} | {after} |"
        )


HEADER = (
    f"| steps | settled | {' | '.join(CERTIFIED)} | contractive | Picard, evaluations a step "
    "| Anderson | within 1.1 of Picard | worst step | intra first | together | inter first |\n"
    "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def study_table(studies: Sequence[StepStudy], command: str, left_out: Sequence[str] = ()) -> str:
    """The studies as Markdown, a row for each number of steps.

    Args:
        studies: of the same photos.
        command: the command line that made them.
        left_out: one line about each photo that could not be read.
    """
    photos = studies[0].photos
    rows = "\n".join(study.markdown() for study in studies)
    told = "".join(f"{line}\n" for line in told_left_out(left_out))
    return (
        f"{counted_of(photos, photos + len(left_out), 'photo')}. Settled: solved to {SETTLED:g}. "
        f"{', '.join(CERTIFIED)}: share of the settled steps where the bound held after so many "
        "iterations (median of bound / error). Evaluations: of the network, until "
        f"{RACE_TOLERANCE:g}, at most {_RACE_LIMIT}. First: below {VANISHED:g}, of {_TWO_PATHS} "
        f"iterations.\n\n{HEADER}\n{rows}\n{told}\n`{command}`\n"
    )


def study_steps(pipeline: InversionPipeline, photos: Sequence[Array], *, steps: int) -> StepStudy:
    """Solves every step of every photo in all the ways that ``StepStudy`` compares.

    Args:
        pipeline: a ``DehazePipeline``.
        photos: float32 (H, W, 3) RGB in [0, 1].
        steps: N.

    Raises:
        NonFiniteError: the network returned values that are not finite.
    """
    seen = [_study_photo(pipeline, photo, steps) for photo in photos]
    known = np.stack([one.settled for one in seen])
    ratios = {
        name: np.stack([one.bounds[name] / one.errors[name] for one in seen])[known]
        for name in CERTIFIED
    }
    return StepStudy(
        steps,
        len(photos),
        settled=float(known.mean()),
        certified={
            name: float((ratio >= 1.0).mean()) if ratio.size else np.nan
            for name, ratio in ratios.items()
        },
        tightness={
            name: float(np.median(ratio)) if ratio.size else np.nan
            for name, ratio in ratios.items()
        },
        contractive=float((np.stack([one.contraction for one in seen]) < 1.0).mean()),
        picard=np.stack([one.picard for one in seen]),
        anderson=np.stack([one.anderson for one in seen]),
        intra=np.stack([one.intra for one in seen]),
        inter=np.stack([one.inter for one in seen]),
    )


@dataclass(frozen=True)
class _PhotoStudy:
    """The N steps of one photo, of which ``StepStudy`` is made.

    Attributes:
        settled: bool (N,), whether a step was solved to ``SETTLED``.
        bounds, errors: of each of ``CERTIFIED``, (N,).
        contraction: estimates of q, (N,).
        picard, anderson: network evaluations until ``RACE_TOLERANCE``, (N,).
        intra, inter: residuals, (N, K).
    """

    settled: NDArray[np.bool_]
    bounds: dict[str, NDArray[np.float64]]
    errors: dict[str, NDArray[np.float64]]
    contraction: NDArray[np.float32]
    picard: NDArray[np.int64]
    anderson: NDArray[np.int64]
    intra: NDArray[np.float64]
    inter: NDArray[np.float64]


def _study_photo(pipeline: InversionPipeline, photo: Array, steps: int) -> _PhotoStudy:
    settled = pipeline.description.inversion.changed(
        steps=steps, solver="anderson", tolerance=SETTLED, max_iterations=_LONGEST
    )
    solved: InversionResult = pipeline.invert(photo, settings=settled, record_attention=False)
    short = {
        name: solve_steps(
            pipeline,
            solved,
            settled.changed(solver=solver, tolerance=1e-12, max_iterations=iterations),
        )
        for name, (solver, iterations) in CERTIFIED.items()
    }
    race = {
        solver: solve_steps(
            pipeline,
            solved,
            settled.changed(solver=solver, tolerance=RACE_TOLERANCE, max_iterations=_RACE_LIMIT),
        )[1]
        for solver in ("fixed-point", "anderson")
    }
    _, two_paths = solve_steps(
        pipeline,
        solved,
        settled.changed(
            solver="fixed-point",
            criterion="inter-path",
            tolerance=1e-12,
            max_iterations=_TWO_PATHS,
        ),
    )
    return _PhotoStudy(
        settled=solved.trace.stopped[:, 0].numpy(),
        bounds={
            name: trace.bounds[:, -1, 0].double().numpy() for name, (_, trace) in short.items()
        },
        errors={
            name: _distance(found[:, 0], solved.trajectory[1:, 0])
            for name, (found, _) in short.items()
        },
        contraction=short["Picard 3"][1].contraction[:, 0].numpy(),
        picard=race["fixed-point"].nfe[:, 0].numpy(),
        anderson=race["anderson"].nfe[:, 0].numpy(),
        intra=two_paths.residuals[:, :, 0].double().numpy(),
        inter=two_paths.inter[:, :, 0].double().numpy(),
    )


def _distance(one: Tensor, other: Tensor) -> NDArray[np.float64]:
    """Relative rms of the difference, (N,)."""
    difference = root_mean_square((one - other).double()) / root_mean_square(other.double())
    return difference.clamp(min=torch.finfo(torch.float64).tiny).cpu().numpy()


def _fell(residuals: NDArray[np.float64]) -> NDArray[np.int64]:
    """(..., K) -> (...): the iteration from which on the residual is below ``VANISHED``, or K."""
    above = residuals >= VANISHED
    last = residuals.shape[-1] - np.argmax(above[..., ::-1], axis=-1)
    return np.where(above.any(-1), last, 0)


def draw_order(studies: Sequence[StepStudy]) -> bytes:
    """Both residuals over the iterations, medians over photos and steps, as PNG.

    Raises:
        PlotsMissingError: matplotlib is missing.
    """
    figure = import_figure()(figsize=(3.4 * len(studies), 3.2), layout="constrained")
    axes = figure.subplots(1, len(studies), squeeze=False, sharey=True)[0]
    for axis, study in zip(axes, studies, strict=True):
        groups = (("step 1", slice(0, 1)), ("later steps", slice(1, None)))
        for color, (group, steps) in zip(("C3", "C0"), groups, strict=True):
            for values, path, style in (
                (study.intra, "intra-path", ".-"),
                (study.inter, "inter-path", ".--"),
            ):
                curve = np.median(values[:, steps].reshape(-1, values.shape[-1]), 0)
                axis.semilogy(
                    range(1, len(curve) + 1), curve, style, color=color, label=f"{path}, {group}"
                )
        axis.axhline(VANISHED, color="black", linewidth=0.8, linestyle=":")
        axis.set(title=f"{study.steps} steps", xlabel="iteration")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("relative residual")
    axes[0].legend(fontsize="x-small")
    return as_png(figure)
