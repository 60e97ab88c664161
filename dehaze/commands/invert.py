"""``dehaze invert``: a photo's inversion as a file, and plots of how it converged."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dehaze.commands import COMMANDS, CommandError, RegistryChoice, quiet_libraries

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dehaze.inversion import InversionResult, InversionTrace

# Of the inversion behind the plots: Picard on two paths, far enough to see the curves settle.
_PLOTTED_ITERATIONS = 12


def _solvers() -> Iterable[str]:
    from dehaze.inversion import list_methods

    return list_methods()


def _predictors() -> Iterable[str]:
    from dehaze.inversion import list_predictors

    return list_predictors()


def _criteria() -> Iterable[str]:
    from dehaze.inversion import list_criteria

    return list_criteria()


@click.command(short_help=COMMANDS["invert"])
@click.argument("image", metavar="IMAGE", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE",
    help="Where the inversion goes, in safetensors; made or replaced.",
)
@click.option(
    "--plots",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Also draw residuals, contraction and reconstruction; needs dehaze[plots].",
)
@click.option("--model", default="bundled", show_default=True, help="As in run.")
@click.option("--prompt", help="What the photo shows.  [default: the model's]")
@click.option("--word", help="A word that the prompt must hold.")
@click.option(
    "--solver",
    type=RegistryChoice(_solvers),
    metavar="NAME",
    help="A wrong name lists them.  [default: the model's]",
)
@click.option(
    "--predictor",
    type=RegistryChoice(_predictors),
    default="previous",
    show_default=True,
    metavar="NAME",
    help="What the solver starts from; a wrong name lists them.",
)
@click.option(
    "--criterion",
    type=RegistryChoice(_criteria),
    default="intra-path",
    show_default=True,
    metavar="NAME",
    help="When a step is solved; a wrong name lists them.",
)
@click.option("--steps", type=click.IntRange(min=1), help="[default: the model's]")
@click.option(
    "--depth", type=click.IntRange(min=1), help="Invert so many of the steps.  [default: all]"
)
@click.option(
    "--iterations",
    "max_iterations",
    type=click.IntRange(min=1),
    help="The solver's limit a step.  [default: the model's]",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, min_open=True),
    help="Relative residual at which a step is done.  [default: the model's]",
)
@click.option(
    "--guidance",
    "guidance_scale",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Classifier-free guidance; 1 evaluates the network once, all else twice.",
)
@click.option("--device", default="auto", show_default=True)
def invert(
    image: Path, output: Path, plots: Path | None, model: str, device: str, **settings: Any
) -> None:
    """Invert the photo IMAGE and write its inversion to a file.

    The file holds every latent, the noise of every step, how the solver fared, and the attention
    on the way; dehaze.inversion.InversionResult.load reads it.

    Exit code: 0, it is written; 2, it could not be.
    """
    quiet_libraries()
    from dehaze.editing import EditPipeline
    from dehaze.eval.inversion import InversionEvaluationError, import_figure
    from dehaze.eval.methods import MethodError, PipelineOptions, load_pipeline
    from dehaze.images import PhotoError, read_photo, write_bytes
    from dehaze.inversion import NonFiniteError
    from dehaze.prompts import WordError

    try:
        if plots is not None:
            import_figure()
        pixels = read_photo(image).pixels
        pipeline = EditPipeline.sharing(load_pipeline(PipelineOptions(model=model, device=device)))
        inversion = pipeline.invert(pixels, **settings)
        output.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(output, inversion.to_bytes())
        click.echo(_sentence(inversion, output))
        if plots is not None:
            followed = settings | {
                "solver": "fixed-point",
                "criterion": "inter-path",
                "max_iterations": _PLOTTED_ITERATIONS,
                "tolerance": 1e-9,
            }
            trace = pipeline.invert(pixels, **followed).trace
            latents = pipeline.retrace(
                inversion,
                settings["prompt"],
                settings["word"],
                guidance_scale=settings["guidance_scale"],
            )
            size = pipeline.working_size(pixels)
            original, back = (
                pipeline.decode(latent, size) for latent in (inversion.trajectory[0], latents)
            )
            plots.mkdir(parents=True, exist_ok=True)
            drawings = {
                "residuals.png": _residuals(trace),
                "contraction.png": _contraction(trace, inversion.table.timesteps),
                "reconstruction.png": _reconstruction(original, back),
            }
            for name, data in drawings.items():
                write_bytes(plots / name, data)
            click.echo(f"Plots: {', '.join(str(plots / name) for name in drawings)}")
    except (
        InversionEvaluationError,
        MethodError,
        NonFiniteError,
        OSError,
        PhotoError,
        WordError,
        ValueError,
    ) as error:
        raise CommandError(str(error)) from error


def _sentence(inversion: InversionResult, output: Path) -> str:
    trace = inversion.trace
    parts = [
        f"{inversion.steps} steps, {int(trace.nfe.sum())} NFE",
        f"{int(trace.converged.sum())} steps converged",
    ]
    stubborn = [str(i + 1) for i, q in enumerate(trace.contraction[:, 0].tolist()) if q >= 1.0]
    if stubborn:
        parts.append(f"not contractive at step {', '.join(stubborn)}")
    return f"{', '.join(parts)}; {output}"


def _residuals(trace: InversionTrace) -> bytes:
    from dehaze.eval.inversion import as_png, import_figure

    n = trace.residuals.shape[0]
    shown = sorted({1, max(1, n // 3), max(1, 2 * n // 3), n})
    figure = import_figure()(figsize=(3.4 * len(shown), 3.4), layout="constrained")
    axes = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axis, i in zip(axes, shown, strict=True):
        for values, label in (
            (trace.residuals, "intra-path"),
            (trace.inter, "inter-path"),
            (trace.bounds, "bound of the error"),
        ):
            curve = values[i - 1, :, 0]
            axis.semilogy(range(1, len(curve) + 1), curve.tolist(), "o-", label=label)
        axis.set(title=f"step {i} of {n}", xlabel="iteration")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("relative to the latent")
    axes[-1].legend()
    return as_png(figure)


def _contraction(trace: InversionTrace, timesteps: tuple[int, ...]) -> bytes:
    from dehaze.eval.inversion import as_png, import_figure

    figure = import_figure()(figsize=(5.0, 3.4), layout="constrained")
    axis = figure.subplots()
    constants = trace.contraction[:, 0].tolist()
    axis.plot(timesteps[: len(constants)], constants, "o-")
    axis.axhline(1.0, color="black", linestyle=":")
    axis.set(xlabel="timestep", ylabel="contraction constant", ylim=(0.0, None))
    axis.grid(alpha=0.3)
    return as_png(figure)


def _reconstruction(original: NDArray[Any], back: NDArray[Any]) -> bytes:
    from dehaze.eval.inversion import as_png, import_figure

    figure = import_figure()(figsize=(9.0, 2.8), layout="constrained")
    panels = (
        ("original", original),
        ("reconstruction", back),
        ("difference, x 10", (10.0 * abs(back - original)).clip(0.0, 1.0)),
    )
    for axis, (title, picture) in zip(figure.subplots(1, 3), panels, strict=True):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(title)
        axis.set_axis_off()
    return as_png(figure)
