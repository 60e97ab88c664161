"""``dehaze evaluate inversion``: what each solver reconstructs, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dehaze.commands import options
from dehaze.commands.command import Command, option, with_any
from dehaze.commands.evaluate.parameters import Numbers, command_line, haze_kinds
from dehaze.commands.options import RegistryChoice
from dehaze.commands.reporting import CommandError, note, quiet_libraries, result
from dehaze.errors import DehazeError

if TYPE_CHECKING:
    from dehaze.models.choice import ModelChoice


@click.command(cls=Command, short_help="Reconstruct pictures, solver by solver.")
@click.argument("pictures", metavar="FOLDER", type=click.Path(path_type=Path))
@options.output_folder("inversion.md, .csv, .json and .png", "evaluation")
@option(
    "--method",
    "methods",
    multiple=True,
    default=("ddim", "easyinv", "fixed-point:iterations=10", "best", "edict", "bdia"),
    show_default=True,
    metavar="METHOD",
    help=(
        "A row of the table; may be repeated. SOLVER, or SOLVER:predictor=P,relaxation=R,"
        "criterion=C,iterations=K,tolerance=T,mode=M; a wrong name lists them. best: what "
        "reconstructs best for its cost."
    ),
)
@option(
    "--steps",
    type=Numbers(int),
    default="10,20,50",
    show_default=True,
    help="Numbers of steps with commas between them.",
)
@option(
    "--guidance",
    type=Numbers(float),
    default="1",
    show_default=True,
    help="Guidance scales with commas between them.",
)
@option("--render", type=RegistryChoice(haze_kinds), metavar="KIND", help="As in evaluate folder.")
@options.limit()
@option("--lpips", is_flag=True, help="LPIPS as well; needs dehaze-diffusion[iqa] and its weights.")
@options.model()
@options.seed(effect=with_any("render"), help="Of the rendered haze.")
def inversion(
    pictures: Path,
    output: Path,
    methods: tuple[str, ...],
    steps: tuple[int, ...],
    guidance: tuple[float, ...],
    render: str | None,
    limit: int | None,
    lpips: bool,
    model: ModelChoice,
    seed: int,
) -> None:
    """Reconstruct the pictures of a FOLDER, solver by solver.

    Each picture is inverted and denoised under the same prompt. The table has PSNR, latent error
    and time beside the cost in network evaluations; the plot draws one against the other.
    """
    quiet_libraries()
    from dehaze.datasets import (
        open_photo_folder,
        read_rgb,
        render_dataset,
    )
    from dehaze.eval.inversion.methods import parse_inversion_method
    from dehaze.eval.inversion.table import evaluate_inversion
    from dehaze.eval.perceptual import load_perceptual_metric
    from dehaze.eval.plots import import_figure
    from dehaze.models.choice import find_device
    from dehaze.pipelines.dehaze import DehazePipeline
    from dehaze.pipelines.pictures import as_pixels

    try:
        chosen = [parse_inversion_method(method) for method in methods]
        import_figure()
        place = str(find_device(model.device))
        metric = load_perceptual_metric("lpips", place) if lpips else None
        dataset = open_photo_folder(pictures)
        if render is not None:
            dataset = render_dataset(
                dataset, output / "rendered", kind=render, seed=seed, limit=limit
            )
        samples = dataset.spread(limit)
        photos = [as_pixels(read_rgb(sample.hazy).pixels) for sample in samples]
        table = evaluate_inversion(
            model.load(DehazePipeline),
            photos,
            chosen,
            steps=steps,
            guidance_scales=guidance,
            command=command_line(),
            lpips=metric,
            on_score=lambda score: note(
                f"{score.settings.steps} steps, guidance {score.guidance_scale:g}, {score.family}: "
                f"{score.psnr:.2f} dB at {score.nfe_per_step:.2f} evaluations a step"
            ),
        )
        result(table.markdown())
        written = table.write(output)
    except (DehazeError, ValueError) as error:
        raise CommandError(str(error)) from error
    note(f"written: {', '.join(map(str, written))}")
