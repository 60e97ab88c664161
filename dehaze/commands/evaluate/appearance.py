"""``dehaze evaluate appearance``: words with known answers, removed and replaced."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dehaze.commands import options
from dehaze.commands.command import Command, option
from dehaze.commands.evaluate.parameters import command_line
from dehaze.commands.evaluate.pictures import exit_naming, readable_photos
from dehaze.commands.param_types import Names
from dehaze.commands.reporting import CommandError, note, quiet_libraries, result
from dehaze.errors import DehazeError

if TYPE_CHECKING:
    from dehaze.models.choice import ModelChoice


@click.command(cls=Command, short_help="Score edits of words with a known answer.")
@click.argument("pictures", metavar="FOLDER", type=click.Path(path_type=Path))
@options.output_folder("appearance.md, .csv and .json", "evaluation")
@option(
    "--words",
    type=Names(),
    default=(),
    help="Appearances with commas between them; a wrong name lists them.  [default: all]",
)
@option(
    "--method",
    "methods",
    multiple=True,
    metavar="METHOD",
    help="A row of the table; may be repeated; a wrong name lists them.  [default: all]",
)
@options.recovery(default="affine")
@options.limit()
@options.model()
@options.seed(help="Seed of what is rendered over the pictures.")
@click.pass_context
def appearance(
    context: click.Context,
    /,
    pictures: Path,
    output: Path,
    words: tuple[str, ...],
    methods: tuple[str, ...],
    recovery: str,
    limit: int | None,
    model: ModelChoice,
    seed: int,
) -> None:
    """Remove and replace words that were rendered over the clear pictures of a FOLDER.

    Haze, night, sunset, snow, rain, black and white, and blur are rendered by documented
    procedures, so the answer is known: the clear picture, or the picture under the other word.

    A photo that cannot be read, or is too small for SSIM, is named, and the others are done.

    Exit code: 0, all photos were done; 1, some were left out and are named; 2, the command is
    wrong.
    """
    quiet_libraries()
    from dehaze.datasets.appearance import APPEARANCES
    from dehaze.eval.appearance.methods import get_methods
    from dehaze.eval.appearance.table import check_size, evaluate_appearance
    from dehaze.pipelines.edit import EditPipeline

    try:
        chosen = get_methods(methods)
        photos, left_out = readable_photos(pictures, output, limit, check_size)
        table = evaluate_appearance(
            model.load(EditPipeline),
            list(photos),
            words=words or tuple(APPEARANCES.names()),
            methods=chosen,
            seed=seed,
            recovery=recovery,
            command=command_line(),
            left_out=left_out,
            on_photo=lambda word, number: note(f"{word}: photo {number + 1} of {len(photos)}"),
        )
        result(table.markdown())
        written = table.write(output)
    except DehazeError as error:
        raise CommandError(str(error)) from error
    note(f"written: {', '.join(map(str, written))}")
    exit_naming(context, left_out)
