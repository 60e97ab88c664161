"""``dehaze invert``: a photo's inversion as a file, and plots of how it converged."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dehaze.commands import options
from dehaze.commands.command import RESEARCH, Command, Condition, option, with_any
from dehaze.commands.inversions import InversionJob
from dehaze.commands.param_types import RegistryChoice
from dehaze.commands.reporting import CommandError, problem, quiet_libraries
from dehaze.errors import DehazeError
from dehaze.wording import counted

if TYPE_CHECKING:
    from dehaze.datasets import Dataset
    from dehaze.inversion import InversionSettings
    from dehaze.models.choice import ModelChoice
    from dehaze.models.needs import ModelDescription

# Errors that fail one photo.
_FAILURES = (DehazeError, OSError, ValueError)


def _relaxations() -> Iterable[str]:
    from dehaze.inversion import RELAXATIONS

    return RELAXATIONS.names()


def _adjustments() -> Iterable[str]:
    from dehaze.inversion import ADJUSTMENTS

    return ADJUSTMENTS.names()


@click.command(cls=Command)
@click.argument("photos", metavar="PHOTO", type=click.Path(path_type=Path))
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
    effect=Condition(lambda given: given["adjustment"] is not None, "with --adjust"),
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
    """Invert PHOTO, or each photo of a folder, and write its inversion to a file.

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
        inverting = 1.0 if mode is not None else guidance_scale
        settings = _settings(pipeline.description, num_inference_steps, inverting, chosen)
        job = InversionJob(pipeline, prompt, settings, mode, guidance_scale, attention)
        if folder is None:
            job.run(photos, output, plots)
    except _FAILURES as error:
        raise CommandError(str(error)) from error
    if folder is not None:
        _invert_folder(job, folder, output, plots)


def _invert_folder(job: InversionJob, folder: Dataset, output: Path, plots: Path | None) -> None:
    """Invert each photo of a folder.

    Raises:
        click.exceptions.Exit: some failed; each is named.
    """
    failed = len(folder.failures)
    for left_out in folder.failures:
        problem(f"failed: {left_out.message}")
    for sample in folder.samples:
        file = output / f"{sample.name}.safetensors"
        try:
            job.run(sample.hazy, file, None if plots is None else plots / sample.name)
        except _FAILURES as error:
            failed += 1
            problem(f"failed: {sample.hazy}: {error}")
    if failed:
        problem(f"{failed} of {counted(len(folder) + len(folder.failures), 'photo')} failed")
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
