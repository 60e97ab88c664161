"""``dehaze generate``: new pictures of what a few photos show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dehaze.commands import options
from dehaze.commands.command import RESEARCH, Command, option, with_value
from dehaze.commands.param_types import RegistryChoice
from dehaze.commands.reporting import CommandError, note, note_empty, quiet_libraries, result
from dehaze.wording import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dehaze.inversion.seedselect import SeedSelectSettings
    from dehaze.models.choice import ModelChoice
    from dehaze.pipelines.seedselect import SeedSelectResult


_SHEET = "pictures.png"


def _starts() -> Iterable[str]:
    from dehaze.pipelines.seedselect import STARTS

    return STARTS.names()


@click.command(cls=Command)
@click.argument(
    "inputs", metavar="INPUT...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@options.output_folder("the pictures", "generated")
@options.prompt(required=True, help="What the photos show, such as 'a photo of an oxcart'.")
@options.clip(
    required=True,
    help="CLIP, which compares pictures and photos: a folder, or a hub id in the hub's cache; "
    "SeedSelect's authors took laion/CLIP-ViT-H-14-laion2B-s32B-b79K.",
)
@option(
    "-n",
    "--pictures",
    type=click.IntRange(min=1),
    metavar="N",
    default=4,
    show_default=True,
    help="How many pictures.",
)
@option(
    "--start",
    type=RegistryChoice(_starts),
    default="nao",
    show_default=True,
    metavar="NAME",
    help="nao starts between the inverted photos, noise from random noise.",
)
@option(
    "--iterations",
    type=click.IntRange(min=1),
    metavar="N",
    heading=RESEARCH,
    help="Iterations of each picture's fit.  [default: 5 from nao, 30 from noise]",
)
@options.guidance(help="Classifier-free guidance of the pictures; 1 is none.")
@options.seed(effect=with_value("start", "noise"), help="Seed of the noise.")
@options.steps(help=f"Steps of the inversions and of the pictures.  {options.OF_MODEL}")
@options.model()
def generate(
    inputs: tuple[Path, ...],
    output: Path,
    prompt: str,
    clip: str,
    pictures: int,
    start: str,
    iterations: int | None,
    guidance_scale: float,
    seed: int,
    steps: int | None,
    model: ModelChoice,
) -> None:
    """Make new pictures of what a few photos show, at the size that the model works at.

    Each INPUT is a photo or a folder. The command is for things that the model has rarely seen.
    Nothing is trained: only the noise that each picture starts from is fitted (SeedSelect), until
    CLIP and the model's codec find the picture similar to the photos. A photo of other proportions
    than the first one is cut to the first one's, around the middle.

    \b
      dehaze generate oxcarts/ --prompt "a photo of an oxcart" \\
        --clip openai/clip-vit-large-patch14 --model stable-diffusion-v1-5/stable-diffusion-v1-5

    \b
    Into FOLDER:
      picture-00.png   and so on
      pictures.png     the photos, and below them the pictures with their losses

    Exit code: 0, all is written; 2, it could not be.
    """
    quiet_libraries()
    import torch

    from dehaze.commands.outputs import check_inputs_stay, note_earlier
    from dehaze.inversion.likely_paths import minimiser
    from dehaze.inversion.seedselect import SeedSelectError
    from dehaze.models.choice import find_device
    from dehaze.models.clip import load_clip
    from dehaze.network import NonFiniteError
    from dehaze.photos import PhotoError, printable, read_photo
    from dehaze.pipelines.pictures import cut_like, is_cut
    from dehaze.pipelines.seedselect import SeedSelectPipeline

    if start == "nao":
        # Before the photos are inverted, not after.
        minimiser()
    sources = _photos_in(inputs, output)
    files = [output / f"picture-{number:02d}.png" for number in range(pictures)]
    check_inputs_stay(sources, [*files, output / _SHEET])
    try:
        whole = [read_photo(source).pixels for source in sources]
        photos = [cut_like(photo, whole[0].shape[:2]) for photo in whole]
        for source, photo in zip(sources, whole, strict=True):
            if is_cut(photo, whole[0].shape[:2]):
                note(f"{printable(source)}: cut to the proportions of {printable(sources[0])}")
        judge = load_clip(clip, find_device(model.device))
        pipe = model.load(SeedSelectPipeline)
        pipe.prompts.tokens(prompt)
        note_empty("--prompt", prompt)
        made = pipe(
            photos,
            prompt,
            judge.image_encoder,
            pictures=pictures,
            start=start,
            settings=_settings(start, iterations),
            guidance_scale=guidance_scale,
            generator=torch.Generator().manual_seed(seed) if start == "noise" else None,
            num_inference_steps=steps,
        )
        small = [pipe.codec.reduced(photo) for photo in photos]
        _write(files, made, small, [source.name for source in sources])
    except (NonFiniteError, OSError, PhotoError, SeedSelectError, ValueError) as error:
        raise CommandError(str(error)) from error
    for file, found in zip(files, made.seeds, strict=True):
        if min(found.losses) == found.losses[0]:
            note(f"{file.name}: no iteration came nearer to the photos than its start")
    note_earlier(output, "picture-[0-9][0-9]*.png", files)
    result(f"{counted(len(made.pictures), 'picture')}, loss {', '.join(_losses(made))}; {output}")


def _photos_in(inputs: Sequence[Path], output: Path) -> list[Path]:
    """The photos that inputs name or hold, without those in the folder of results.

    Raises:
        CommandError: there is none, or one cannot be read.
    """
    from dehaze import batch

    plan = batch.plan(inputs, output, results=False)
    if not plan.photos:
        raise CommandError("no photo found; name photos, or folders that hold some")
    if plan.unreadable:
        raise CommandError(str(plan.unreadable[0]))
    return [item.source for item in plan.photos]


def _settings(start: str, iterations: int | None) -> SeedSelectSettings:
    """The published settings of a start, with other iterations if they are given."""
    from dehaze.pipelines.seedselect import STARTS

    published = STARTS.get(start)
    return published if iterations is None else replace(published, iterations=iterations)


def _write(
    files: Sequence[Path],
    made: SeedSelectResult,
    photos: Sequence[NDArray[np.float32]],
    names: Sequence[str],
) -> None:
    """Write the pictures, and the sheet of photos and pictures beside them.

    Args:
        files: of the pictures.
        made: with the pictures.
        photos: float32 (h, w, 3) in [0, 1], at the pictures' size.
        names: of the photos.
    """
    from dehaze.attention.sheets import sheet
    from dehaze.photos import write_photo

    folder = files[0].parent
    folder.mkdir(parents=True, exist_ok=True)
    for file, picture in zip(files, made.pictures, strict=True):
        write_photo(file, picture)
    write_photo(folder / _SHEET, sheet([photos, made.pictures], [names, _losses(made)]))


def _losses(made: SeedSelectResult) -> list[str]:
    """The loss of each picture at its start and in the end."""
    return [f"{found.losses[0]:.2f} to {min(found.losses):.2f}" for found in made.seeds]
