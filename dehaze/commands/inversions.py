"""``dehaze invert``, one photo: its inversion's file, its plots, and how it went in words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dehaze.commands.reporting import Verbosity, result, verbosity
from dehaze.wording import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dehaze.inversion import InversionResult, InversionSettings

# Picard iterations on two paths in the plots, enough to see the curves settle.
_PLOTTED_ITERATIONS = 12


@dataclass(frozen=True)
class InversionJob:
    """The work of ``dehaze invert`` on each photo.

    Attributes:
        pipeline: a ``DehazePipeline``.
        prompt: None for the model's own.
        settings: of the inversion.
        mode: what holds the way back; None for guidance on both ways.
        guidance_scale: g of the way back.
        attention: whether attention is written as well.
    """

    pipeline: Any
    prompt: str | None
    settings: InversionSettings
    mode: str | None
    guidance_scale: float
    attention: bool

    def run(self, photo: Path, output: Path, plots: Path | None) -> None:
        """Inverts a photo and writes its file and its plots."""
        from dehaze.photos import read_photo, write_bytes, writing

        pixels = read_photo(photo).pixels
        inversion = self.pipeline.invert(
            pixels, self.prompt, settings=self.settings, record_attention=self.attention
        )
        output.parent.mkdir(parents=True, exist_ok=True)
        with writing(output) as file:
            inversion.write(file, attention=self.attention)
        result(f"{_in_words(inversion)}; {output}")
        if plots is None:
            return
        drawings = self.drawings(pixels, inversion)
        plots.mkdir(parents=True, exist_ok=True)
        for name, data in drawings.items():
            write_bytes(plots / name, data)
        result(f"Plots: {', '.join(str(plots / name) for name in drawings)}")

    def drawings(self, pixels: NDArray[Any], inversion: InversionResult) -> dict[str, bytes]:
        """The plots by file name: DDIM's own steps by Picard iteration, and the way back."""
        from dehaze.eval.plots import (
            draw_contraction,
            draw_reconstruction,
            draw_residuals,
            draw_trajectories,
        )
        from dehaze.eval.probes import come_back, picard_paths

        pipeline = self.pipeline
        followed = pipeline.invert(
            pixels,
            self.prompt,
            settings=self.settings.changed(
                solver="fixed-point",
                criterion="inter-path",
                max_iterations=_PLOTTED_ITERATIONS,
                tolerance=1e-9,
            ),
            record_attention=False,
        )
        trip = come_back(
            pipeline, pixels, inversion, guidance_scale=self.guidance_scale, mode=self.mode
        )

        def paths_of_step(i: int) -> NDArray[Any]:
            paths = picard_paths(pipeline, followed, i, iterations=_PLOTTED_ITERATIONS)
            return paths.flatten(2).double().cpu().numpy()

        return {
            "residuals.png": draw_residuals(followed.trace, followed.table.timesteps),
            "trajectories.png": draw_trajectories(followed, paths_of_step),
            "contraction.png": draw_contraction(followed.trace, followed.table.timesteps),
            "reconstruction.png": draw_reconstruction(trip.photo, trip.back, trip.psnr),
        }


def _in_words(inversion: InversionResult) -> str:
    """How an inversion went, in words; with -v in numbers."""
    trace = inversion.trace
    parts = [f"{counted(inversion.steps, 'step')}, {_how_exactly(inversion)}"]
    if inversion.adjustment is not None:
        parts.append(f"the photo was changed by {100 * float(inversion.adjustment[0]):.2f} % first")
    if verbosity() == Verbosity.VERBOSE:
        parts.append(f"{int(trace.nfe.sum())} network evaluations")
        stubborn = [str(i + 1) for i, q in enumerate(trace.contraction[:, 0].tolist()) if q >= 1.0]
        if stubborn:
            parts.append(f"not contractive at step {', '.join(stubborn)}")
    return "; ".join(parts)


def _how_exactly(inversion: InversionResult) -> str:
    """Which steps have converged, by their measured residual."""
    from dehaze.inversion import SOLVERS, ExactSampler, Sampler

    trace, settings = inversion.trace, inversion.settings
    solver = SOLVERS.get(settings.solver)
    if isinstance(solver, ExactSampler):
        return "which are undone exactly whatever the network does"
    if isinstance(solver, Sampler):
        return "explicit, which are undone nearly, not exactly: --plots shows the error"
    remaining = trace.remaining[:, 0]
    unknown = int(remaining.isnan().sum())
    if unknown == inversion.steps:
        stopped = int(trace.stopped[:, 0].sum())
        return (
            f"of which {stopped} ended by the criterion {settings.criterion!r}; their errors were "
            "not measured: --check measures them"
        )
    converged = int(trace.converged[:, 0].sum())
    if converged == inversion.steps:
        return f"all converged to {settings.tolerance:.2g} of the latent"
    worst = int(remaining.nan_to_num(-1.0).argmax())
    words = (
        f"{converged} converged to {settings.tolerance:.2g} of the latent, the others did not: "
        f"step {worst + 1} is off by {float(remaining[worst]):.2g}"
    )
    return f"{words}, and {unknown} were not measured" if unknown else words
