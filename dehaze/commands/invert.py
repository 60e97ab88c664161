"""``dehaze invert``: a photo's inversion as a file, and plots of how it converged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dehaze.commands import options
from dehaze.commands.command import RESEARCH, Command, Effect, option, with_any
from dehaze.commands.param_types import RegistryChoice
from dehaze.commands.reporting import (
    CommandError,
    Verbosity,
    problem,
    quiet_libraries,
    result,
    verbosity,
)
from dehaze.errors import DehazeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dehaze.inversion import InversionResult, InversionSettings
    from dehaze.models.choice import ModelChoice
    from dehaze.models.needs import ModelDescription

# Picard iterations on two paths in the plots, enough to see the curves settle.
_PLOTTED_ITERATIONS = 12


def _relaxations() -> Iterable[str]:
    from dehaze.inversion import RELAXATIONS

    return RELAXATIONS.names()


def _adjustments() -> Iterable[str]:
    from dehaze.inversion import ADJUSTMENTS

    return ADJUSTMENTS.names()


@click.command(cls=Command)
@click.argument("photos", metavar="IMAGE", type=click.Path(path_type=Path))
@options.output_file(
    required=True,
    help="Where the inversion goes, in safetensors; made or replaced. A folder for a folder.",
)
@option(
    "--plots",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help=(
        "Also draw residuals, trajectories, contraction and reconstruction; needs "
        "dehaze-diffusion[plots]."
    ),
)
@option(
    "--attention",
    is_flag=True,
    help=(
        "Also write the attention, by far the largest part. An edit of the file then saves one "
        "network evaluation a step."
    ),
)
@options.model()
@options.prompt()
@options.word()
@options.solver(
    help=(
        "How each step is solved; a wrong name lists the solvers. A named solver runs as it was "
        "published.  [default: the best settings for the model]"
    ),
)
@options.predictor(effect=options.used_by_solver("predictor"))
@option(
    "--relaxation",
    effect=options.used_by_solver("relaxation"),
    type=RegistryChoice(_relaxations),
    metavar="NAME",
    heading=RESEARCH,
    help="How long its updates are made; a wrong name lists them.",
)
@options.criterion(effect=options.used_by_solver("criterion"))
@options.steps("num_inference_steps")
@options.depth()
@options.iterations(effect=options.used_by_solver("max_iterations"))
@options.tolerance(
    effect=options.used_by_solver("tolerance"),
    help="How exactly a step is solved, relative to the latent.",
)
@option(
    "--check",
    "checked",
    effect=options.used_by_solver("checked"),
    is_flag=True,
    heading=RESEARCH,
    help="Measure how exactly each step was solved, for one network evaluation more a step.",
)
@options.guidance(help="Classifier-free guidance; 1 is none, all else evaluates the network twice.")
@options.mode(
    effect=with_any("plots"),
    help=(
        "Invert at guidance 1, and guide only the way back, held by NAME; a wrong name lists "
        "them. --plots shows the result."
    ),
)
@option(
    "--adjust",
    "adjustment",
    type=RegistryChoice(_adjustments),
    metavar="NAME",
    heading=RESEARCH,
    help=(
        "Bring the photo nearer to the prompt first: noise-denoise as FPI's text says, or img2img "
        "as its code does."
    ),
)
@option(
    "--adjust-repeats",
    "adjustment_repeats",
    type=click.IntRange(min=1),
    metavar="N",
    heading=RESEARCH,
    effect=Effect(lambda given: given["adjustment"] is not None, "with --adjust"),
    help="How often it is adjusted.  [default: 1]",
)
def invert(
    photos: Path,
    output: Path,
    plots: Path | None,
    attention: bool,
    model: ModelChoice,
    mode: str | None,
    prompt: str | None,
    word: str | None,
    num_inference_steps: int | None,
    guidance_scale: float,
    **chosen: Any,
) -> None:
    """Invert the photo IMAGE, or each photo of a folder, and write its inversion to a file.

    The file holds every latent, the noise of every step, and how each step converged;
    dehaze.inversion.InversionResult.load reads it.

    Exit code: 0, all is written; 1, some photos of a folder failed, each named; 2, wrong usage, or
    the one photo could not be inverted.
    """
    quiet_libraries()
    from dehaze.commands.outputs import check_inputs_stay
    from dehaze.datasets import open_photo_folder
    from dehaze.eval.plots import import_figure
    from dehaze.pipelines.dehaze import DehazePipeline

    try:
        if plots is not None:
            import_figure()
        folder = None
        if photos.is_dir():
            folder = open_photo_folder(photos, results=[] if plots is None else [plots])
        else:
            check_inputs_stay([photos], [output], "file")
        pipeline = model.load(DehazePipeline)
        pipeline.prompt_and_span(prompt, word)
        job = _Job(
            pipeline,
            prompt,
            _settings(
                pipeline.description,
                num_inference_steps,
                1.0 if mode is not None else guidance_scale,
                chosen,
            ),
            mode,
            guidance_scale,
            attention,
        )
    except (DehazeError, ValueError) as error:
        raise CommandError(str(error)) from error
    failures = (DehazeError, OSError, ValueError)
    if folder is None:
        try:
            job.run(photos, output, plots)
        except failures as error:
            raise CommandError(str(error)) from error
        return
    failed = len(folder.failures)
    for left_out in folder.failures:
        problem(f"failed: {left_out.message}")
    for sample in folder.samples:
        try:
            job.run(
                sample.hazy,
                output / f"{sample.name}.safetensors",
                None if plots is None else plots / sample.name,
            )
        except failures as error:
            failed += 1
            problem(f"failed: {sample.hazy}: {error}")
    if failed:
        problem(f"{failed} of {len(folder) + len(folder.failures)} photos failed")
        raise click.exceptions.Exit(1)


def _settings(
    description: ModelDescription, steps: int | None, guidance_scale: float, chosen: dict[str, Any]
) -> InversionSettings:
    """The given settings on top of those of the named solver, or of the model's best ones."""
    given = {name: value for name, value in chosen.items() if value not in (None, False)}
    named = "solver" in given
    base = (
        description.inversion.changed(steps=steps) if named else description.reconstructing(steps)
    )
    return base.changed(guidance_scale=guidance_scale, **given)


@dataclass(frozen=True)
class _Job:
    """What is done to every photo.

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
        result(f"{in_words(inversion)}; {output}")
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


def in_words(inversion: InversionResult) -> str:
    """How an inversion went, in words; with -v in numbers."""
    trace = inversion.trace
    parts = [f"{inversion.steps} steps, {_how_exactly(inversion)}"]
    if inversion.adjustment is not None:
        parts.append(f"the photo was changed by {float(inversion.adjustment[0]):.2%} first")
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
        return "explicit, and near rather than exact: --plots shows how near"
    remaining = trace.remaining[:, 0]
    unknown = int(remaining.isnan().sum())
    if unknown == inversion.steps:
        stopped = int(trace.stopped[:, 0].sum())
        return (
            f"of which {stopped} were left by the rule {settings.criterion!r}, none measured: "
            "--check measures them"
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
