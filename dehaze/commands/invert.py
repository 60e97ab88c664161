"""``dehaze invert``: a photo's inversion as a file, and plots of how it converged."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dehaze.commands import options
from dehaze.commands.command import RESEARCH, Command, option, with_any
from dehaze.commands.options import ITERATING, RegistryChoice
from dehaze.commands.reporting import CommandError, quiet_libraries

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dehaze.inversion import InversionResult
    from dehaze.models.choice import ModelChoice

# Of the inversion behind the plots: Picard on two paths, far enough to see the curves settle.
_PLOTTED_ITERATIONS = 12


def _predictors() -> Iterable[str]:
    from dehaze.inversion import list_predictors

    return list_predictors()


def _relaxations() -> Iterable[str]:
    from dehaze.inversion import list_relaxations

    return list_relaxations()


def _criteria() -> Iterable[str]:
    from dehaze.inversion import list_criteria

    return list_criteria()


def _modes() -> Iterable[str]:
    from dehaze.inversion.reconstruction import PLAIN, list_reconstruction_modes

    return (PLAIN, *list_reconstruction_modes())


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
    help="Also draw residuals, trajectories, contraction and reconstruction; needs "
    "dehaze-diffusion[plots].",
)
@options.model()
@options.prompt()
@options.word()
@options.solver(
    help=(
        "A wrong name lists them. One that is named runs as it was published; else what "
        "reconstructs best for its cost: anderson, extrapolated, relaxed, of 6 iterations."
    ),
)
@option(
    "--predictor",
    effect=ITERATING,
    type=RegistryChoice(_predictors),
    metavar="NAME",
    heading=RESEARCH,
    help="What the solver starts from; a wrong name lists them.",
)
@option(
    "--relaxation",
    effect=ITERATING,
    type=RegistryChoice(_relaxations),
    metavar="NAME",
    heading=RESEARCH,
    help="How far its updates go; a wrong name lists them.",
)
@option(
    "--criterion",
    effect=ITERATING,
    type=RegistryChoice(_criteria),
    metavar="NAME",
    heading=RESEARCH,
    help="When a step is solved; a wrong name lists them.",
)
@options.steps("num_inference_steps")
@option(
    "--depth",
    type=click.IntRange(min=1),
    heading=RESEARCH,
    help="Invert so many of the steps.  [default: all]",
)
@option(
    "--iterations",
    "max_iterations",
    type=click.IntRange(min=1),
    metavar="N",
    heading=RESEARCH,
    effect=ITERATING,
    help="The solver's limit a step.",
)
@options.tolerance(effect=ITERATING, help="Relative residual at which a step is done.")
@options.guidance(help="Classifier-free guidance; 1 evaluates the network once, all else twice.")
@option(
    "--mode",
    effect=with_any("plots"),
    type=RegistryChoice(_modes),
    metavar="NAME",
    heading=RESEARCH,
    help=(
        "Invert at guidance 1 and guide the way back alone, held by NAME; a wrong name lists "
        "them. Shown by --plots."
    ),
)
@option(
    "--adjust",
    "adjusted",
    is_flag=True,
    heading=RESEARCH,
    help="Bring the photo nearer to the prompt first (FPI 3.3), and say how far it moved.",
)
def invert(
    photos: Path,
    output: Path,
    plots: Path | None,
    model: ModelChoice,
    mode: str | None,
    **settings: Any,
) -> None:
    """Invert the photo IMAGE, or each photo of a folder, and write its inversion to a file.

    The file holds every latent, the noise of every step, how the solver fared, and the attention
    on the way; dehaze.inversion.InversionResult.load reads it.

    Exit code: 0, all is written; 1, some photos of a folder failed, each named; 2, wrong usage, or
    the one photo could not be inverted.
    """
    quiet_libraries()
    from dehaze.datasets import DatasetNotFoundError, open_photo_folder
    from dehaze.eval.inversion import InversionEvaluationError, import_figure
    from dehaze.models import ModelError
    from dehaze.network import NonFiniteError
    from dehaze.photos import PhotoError
    from dehaze.pipelines.dehaze import DehazePipeline
    from dehaze.prompts import WordError

    try:
        if plots is not None:
            import_figure()
        samples = open_photo_folder(photos).samples if photos.is_dir() else None
        pipeline = model.load(DehazePipeline)
        pipeline.prompt_and_span(settings["prompt"], settings["word"])
        chosen = _complete(settings, settings["num_inference_steps"] or pipeline.description.steps)
    except (
        DatasetNotFoundError,
        InversionEvaluationError,
        ModelError,
        WordError,
    ) as error:
        raise CommandError(str(error)) from error
    failures = (InversionEvaluationError, NonFiniteError, OSError, PhotoError, ValueError)
    if samples is None:
        try:
            _invert_photo(pipeline, photos, output, plots, mode, chosen)
        except failures as error:
            raise CommandError(str(error)) from error
        return
    failed = 0
    for sample in samples:
        try:
            _invert_photo(
                pipeline,
                sample.hazy,
                output / f"{sample.name}.safetensors",
                None if plots is None else plots / sample.name,
                mode,
                chosen,
            )
        except failures as error:
            failed += 1
            click.echo(f"dehaze: failed: {sample.hazy}: {error}", err=True)
    if failed:
        click.echo(f"dehaze: {failed} of {len(samples)} photos failed", err=True)
        raise click.exceptions.Exit(1)


def _complete(settings: dict[str, Any], steps: int) -> dict[str, Any]:
    """What was given, and where no solver was, the best settings at equal cost."""
    from dehaze.inversion import best_at_equal_cost

    base = (
        best_at_equal_cost(steps)
        if settings["solver"] is None
        else {"predictor": "previous", "relaxation": "none", "criterion": "intra-path"}
    )
    return settings | {name: value for name, value in base.items() if settings[name] is None}


def _invert_photo(
    pipeline: Any,
    photo: Path,
    output: Path,
    plots: Path | None,
    mode: str | None,
    settings: dict[str, Any],
) -> None:
    from dehaze.photos import read_photo, write_bytes

    pixels = read_photo(photo).pixels
    guidance_scale = settings["guidance_scale"]
    inverted = settings if mode is None else settings | {"guidance_scale": 1.0}
    inversion = pipeline.invert(pixels, **inverted)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(output, inversion.to_bytes())
    click.echo(_sentence(inversion, output))
    if plots is None:
        return
    drawings = _drawings(pipeline, pixels, inversion, mode, guidance_scale, inverted)
    plots.mkdir(parents=True, exist_ok=True)
    for name, data in drawings.items():
        write_bytes(plots / name, data)
    click.echo(f"Plots: {', '.join(str(plots / name) for name in drawings)}")


def _drawings(
    pipeline: Any,
    pixels: NDArray[Any],
    inversion: InversionResult,
    mode: str | None,
    guidance_scale: float,
    settings: dict[str, Any],
) -> dict[str, bytes]:
    """The plots by file name: those of DDIM's own steps, by Picard iteration, and the way back."""
    from dehaze.eval.convergence import (
        draw_contraction,
        draw_reconstruction,
        draw_residuals,
        draw_trajectories,
    )
    from dehaze.eval.metrics import psnr_rgb
    from dehaze.inversion.reconstruction import PLAIN
    from dehaze.recovery.guided_filter import resize

    followed = pipeline.invert(
        pixels,
        **settings
        | {
            "solver": "fixed-point",
            "predictor": "previous",
            "relaxation": "none",
            "criterion": "inter-path",
            "max_iterations": _PLOTTED_ITERATIONS,
            "tolerance": 1e-9,
        },
    )
    words = (settings["prompt"], settings["word"])

    def paths_of_step(i: int) -> NDArray[Any]:
        paths = pipeline.picard_paths(
            followed,
            i,
            *words,
            iterations=_PLOTTED_ITERATIONS,
            guidance_scale=settings["guidance_scale"],
        )
        return paths.flatten(2).double().cpu().numpy()

    anchors = None
    if mode not in (None, PLAIN):
        anchors = pipeline.anchor(inversion, mode, words[0], guidance_scale=guidance_scale)
    latents = pipeline.retrace(inversion, *words, guidance_scale=guidance_scale, anchors=anchors)
    size = pipeline.working_size(pixels)
    original, back = resize(pixels, size), pipeline.decode(latents, size)
    psnr = psnr_rgb(255.0 * back.astype("float64"), 255.0 * original.astype("float64"))
    return {
        "residuals.png": draw_residuals(followed.trace),
        "trajectories.png": draw_trajectories(followed, paths_of_step),
        "contraction.png": draw_contraction(followed.trace, followed.table.timesteps),
        "reconstruction.png": draw_reconstruction(original, back, psnr),
    }


def _sentence(inversion: InversionResult, output: Path) -> str:
    from dehaze.inversion import get_method

    trace = inversion.trace
    parts = [f"{inversion.steps} steps, {int(trace.nfe.sum())} NFE"]
    if get_method(inversion.method).exact:
        parts.append("exact by construction")
    else:
        parts.append(f"{int(trace.converged.sum())} steps converged")
    stubborn = [str(i + 1) for i, q in enumerate(trace.contraction[:, 0].tolist()) if q >= 1.0]
    if stubborn:
        parts.append(f"not contractive at step {', '.join(stubborn)}")
    if inversion.adjustment is not None:
        parts.append(f"the photo moved by {float(inversion.adjustment[0]):.2%} of its norm (L2)")
    return f"{', '.join(parts)}; {output}"
