"""``dehaze evaluate inversion``: what each solver reconstructs, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dehaze.commands import options
from dehaze.commands.command import Command, option, with_any, without
from dehaze.commands.evaluate.parameters import Numbers, command_line
from dehaze.commands.evaluate.pictures import (
    exit_naming,
    open_photos,
    readable_photos,
    rendered_folder,
)
from dehaze.commands.reporting import CommandError, note, quiet_libraries, result
from dehaze.errors import DehazeError

if TYPE_CHECKING:
    from dehaze.datasets import PhotoFiles
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
@option(
    "--captions",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What each photo shows, which is then its prompt: COCO's annotations (.json), or a .tsv "
    "of paths below FOLDER and captions.",
)
@options.render(effect=without("captions"))
@options.limit()
@option(
    "--lpips", is_flag=True, help="Compute LPIPS, too; needs dehaze-diffusion[iqa] and its weights."
)
@options.clip(
    effect=with_any("captions"),
    help="Also compute CLIPScore of reconstruction and caption: CLIP's folder, or a hub id in the "
    "hub's cache.",
)
@options.model()
@options.seed(effect=with_any("render"), help="Seed of the rendered haze.")
@click.pass_context
def inversion(
    context: click.Context,
    /,
    pictures: Path,
    output: Path,
    methods: tuple[str, ...],
    steps: tuple[int, ...],
    guidance: tuple[float, ...],
    captions: Path | None,
    render: str | None,
    limit: int | None,
    lpips: bool,
    clip: str | None,
    model: ModelChoice,
    seed: int,
) -> None:
    """Reconstruct the pictures of a FOLDER, solver by solver.

    Each picture is inverted and denoised under the same prompt. The table has PSNR, latent error
    and time beside the cost in network evaluations; the plot draws PSNR against both costs, and the
    codec's own PSNR as a line.

    This compares null-text inversion with fixed points, on photos with captions such as COCO's:

    \b
      dehaze evaluate inversion val2017 --captions captions_val2017.json --limit 100 \\
        --guidance 2 --method ddim --method fixed-point --method ddim:mode=null-text

    A row whose latents diverge is named, and the other rows are done.

    Exit code: 0, all pictures were inverted; 1, a row diverged, or some pictures could not be read,
    had no caption, or one that the model cannot read, and are named; 2, the command is wrong.
    """
    quiet_libraries()
    from dehaze.datasets import PhotoFiles, split_readable
    from dehaze.eval.inversion.captions import choose_captioned
    from dehaze.eval.inversion.methods import parse_inversion_method
    from dehaze.eval.inversion.scores import Judges
    from dehaze.eval.inversion.table import evaluate_inversion
    from dehaze.eval.perceptual import load_perceptual_metric
    from dehaze.eval.plots import import_figure
    from dehaze.models.choice import find_device
    from dehaze.models.clip import load_clip
    from dehaze.pipelines.edit import EditPipeline

    try:
        chosen = [parse_inversion_method(method) for method in methods]
        import_figure()
        device = find_device(model.device)
        judges = Judges(
            load_perceptual_metric("lpips", str(device)) if lpips else None,
            None if clip is None else load_clip(clip, device),
        )
        choice = None
        if captions is None:
            photos, broken = _photos_in(pictures, output, render=render, seed=seed, limit=limit)
            pipeline = model.load(EditPipeline)
        else:
            pipeline = model.load(EditPipeline)
            choice = choose_captioned(pipeline, pictures, captions, limit=limit, results=[output])
            files, broken = split_readable(photo.file for photo in choice.photos)
            choice = choice.of_files(set(files))
            photos = PhotoFiles(files)
        table = evaluate_inversion(
            pipeline,
            photos,
            chosen,
            steps=steps,
            guidance_scales=guidance,
            command=command_line(),
            captions=choice,
            left_out=broken,
            judges=judges,
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
    for line in [] if choice is None else choice.notes:
        note(line)
    exit_naming(context, [*table.failed, *broken, *([] if choice is None else choice.failures)])


def _photos_in(
    folder: Path, output: Path, *, render: str | None, seed: int, limit: int | None
) -> tuple[PhotoFiles, list[str]]:
    """The photos of a folder, with haze rendered over them where ``render`` names a kind.

    And one line about each that cannot be read.
    """
    from dehaze.datasets import PhotoFiles, render_dataset

    if render is None:
        return readable_photos(folder, output, limit)
    clear = open_photos(folder, output)
    rendered = rendered_folder(output, render, seed)
    dataset = render_dataset(clear, rendered, kind=render, seed=seed, limit=limit)
    left_out = [oddity.message for oddity in dataset.failures]
    return PhotoFiles(sample.hazy for sample in dataset), left_out
