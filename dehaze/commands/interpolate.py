"""``dehaze interpolate``: the pictures between two photos, or the one in the middle of several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dehaze.commands import options
from dehaze.commands.command import Command, option, without
from dehaze.commands.param_types import RegistryChoice
from dehaze.commands.reporting import CommandError, note_empty, quiet_libraries, result
from dehaze.wording import counted

if TYPE_CHECKING:
    from dehaze.models.choice import ModelChoice
    from dehaze.pipelines.interpolate import InterpolationResult


def _paths() -> Iterable[str]:
    from dehaze.inversion.interpolation import PATHS

    return PATHS.names()


@click.command(cls=Command)
@click.argument(
    "images", metavar="A B...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@options.output_folder("the pictures", "interpolated")
@option(
    "-n",
    "--pictures",
    effect=without("centroid"),
    type=click.IntRange(min=2),
    default=8,
    show_default=True,
    help="How many pictures, A's and B's included.",
)
@option(
    "--path",
    effect=without("centroid"),
    type=RegistryChoice(_paths),
    default="nao",
    show_default=True,
    metavar="NAME",
    help="nao: latents of likely norms; slerp: of norms between those of A and B.",
)
@option("--centroid", is_flag=True, help="One picture in the middle of all the photos.")
@options.prompt(help=f"What all the photos show.  {options.OF_MODEL}")
@options.model()
@options.steps()
def interpolate(
    images: tuple[Path, ...],
    output: Path,
    pictures: int,
    path: str,
    centroid: bool,
    prompt: str | None,
    steps: int | None,
    model: ModelChoice,
) -> None:
    """Make the pictures between the photos A and B, at the size that the model works at.

    All photos are inverted; the pictures are denoised from points between their latents. Photos of
    other proportions than A are cut to A's, around the middle.

    Exit code: 0, all is written; 2, it could not be.
    """
    if len(images) < 2 or (len(images) > 2 and not centroid):
        raise click.UsageError("name two photos, or two and more with --centroid.")
    quiet_libraries()
    from dehaze.commands.outputs import check_inputs_stay, note_earlier
    from dehaze.inversion.likely_paths import minimiser
    from dehaze.network import NonFiniteError
    from dehaze.photos import PhotoError, read_photo
    from dehaze.pipelines.interpolate import InterpolatePipeline
    from dehaze.pipelines.pictures import cut_like

    if centroid or path == "nao":
        # Before the photos are inverted, not after.
        minimiser()
    numbered = [output / f"{path}-{i:02d}.png" for i in range(pictures)]
    written = [output / "centroid.png"] if centroid else [*numbered, output / f"{path}.png"]
    check_inputs_stay(images, written)
    try:
        photos = [read_photo(image).pixels for image in images]
        pipe = model.load(InterpolatePipeline)
        text = pipe.default_prompt if prompt is None else prompt
        pipe.prompts.tokens(text)
        note_empty("--prompt", prompt)
        inversions = [
            pipe.invert(
                cut_like(photo, photos[0].shape[:2]),
                text,
                num_inference_steps=steps,
                record_attention=False,
            )
            for photo in photos
        ]
        if centroid:
            made = pipe.centre(inversions, text)
        else:
            first, last = inversions
            made = pipe(first, last, text, pictures=pictures, path=path)
        _write(written, made)
    except (NonFiniteError, OSError, PhotoError, ValueError) as error:
        raise CommandError(str(error)) from error
    if not centroid:
        note_earlier(output, f"{path}-[0-9][0-9]*.png", numbered)
    density = "" if centroid else f"; log density along the path {made.log_density:.0f}"
    result(
        f"{counted(len(made.pictures), 'picture')}, norms {', '.join(_norms(made))} of the likely "
        f"one{density}; {output}"
    )


def _norms(made: InterpolationResult) -> list[str]:
    return [f"{norm:.2f}" for norm in made.norms]


def _write(files: Sequence[Path], made: InterpolationResult) -> None:
    """Write each picture to its file; a file more gets the sheet of all pictures."""
    from dehaze.attention.sheets import sheet
    from dehaze.photos import write_photo

    pictures = list(made.pictures)
    if len(files) > len(pictures):
        pictures.append(sheet([made.pictures], [_norms(made)]))
    files[0].parent.mkdir(parents=True, exist_ok=True)
    for file, picture in zip(files, pictures, strict=True):
        write_photo(file, picture)
