"""``dehaze evaluate convergence``: whether the bound holds, and which residual vanishes first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dehaze.commands import options
from dehaze.commands.command import Command, option
from dehaze.commands.evaluate.parameters import Numbers, command_line
from dehaze.commands.evaluate.pictures import exit_naming, readable_photos
from dehaze.commands.reporting import CommandError, note, quiet_libraries, result
from dehaze.errors import DehazeError

if TYPE_CHECKING:
    from dehaze.models.choice import ModelChoice


@click.command(cls=Command, short_help="Compare residuals and bounds with exact steps.")
@click.argument("pictures", metavar="FOLDER", type=click.Path(path_type=Path))
@options.output_folder("convergence.md and .png", "evaluation")
@option(
    "--steps",
    type=Numbers(int),
    default="6,10,20,50",
    show_default=True,
    help="Numbers of steps with commas between them.",
)
@options.limit()
@options.model()
@click.pass_context
def convergence(
    context: click.Context,
    /,
    pictures: Path,
    output: Path,
    steps: tuple[int, ...],
    limit: int | None,
    model: ModelChoice,
) -> None:
    """Solve every step of the inversions of the pictures in FOLDER exactly, and compare.

    The table says, for each number of steps, how often Banach's bound is at least the true error,
    the cost of Anderson and of Picard, and whether the intra-path residual vanishes before the
    inter-path one.

    A photo that cannot be read is named, and the others are done.

    Exit code: 0, all photos were done; 1, some were left out and are named; 2, the command is
    wrong.
    """
    quiet_libraries()
    from dehaze.eval.convergence import draw_order, study_steps, study_table
    from dehaze.eval.plots import import_figure
    from dehaze.photos import write_bytes
    from dehaze.pipelines.dehaze import DehazePipeline

    try:
        import_figure()
        files, left_out = readable_photos(pictures, output, limit)
        photos = list(files)
        pipeline = model.load(DehazePipeline)
        studies = [study_steps(pipeline, photos, steps=count) for count in steps]
        text = study_table(studies, command_line(), left_out)
        result(text)
        output.mkdir(parents=True, exist_ok=True)
        write_bytes(output / "convergence.md", text.encode())
        write_bytes(output / "convergence.png", draw_order(studies))
    except (DehazeError, ValueError) as error:
        raise CommandError(str(error)) from error
    note(f"written: {output / 'convergence.md'}, {output / 'convergence.png'}")
    exit_naming(context, left_out)
