"""``dehaze evaluate predictors``: how good the first guesses of the steps are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dehaze.commands import options
from dehaze.commands.command import Command
from dehaze.commands.evaluate.parameters import command_line
from dehaze.commands.evaluate.pictures import exit_naming, readable_photos
from dehaze.commands.reporting import CommandError, note, quiet_libraries, result
from dehaze.errors import DehazeError

if TYPE_CHECKING:
    from dehaze.models.choice import ModelChoice


@click.command(cls=Command, short_help="Compare each step's first guess with its solution.")
@click.argument("pictures", metavar="FOLDER", type=click.Path(path_type=Path))
@options.output_folder("predictors.md, .csv, .json and .png", "evaluation")
@options.steps(default=10, show_default=True, help="Steps of the inversions.")
@options.limit()
@options.model()
@click.pass_context
def predictors(
    context: click.Context,
    /,
    pictures: Path,
    output: Path,
    steps: int,
    limit: int | None,
    model: ModelChoice,
) -> None:
    """Solve every step of the inversions of the pictures in FOLDER, and compare the guesses.

    A predictor guesses a step's latent without evaluating the network. The table has the mean and
    the variance of each guess's error; the plot also has their histograms.

    A photo that cannot be read is named, and the others are done.

    Exit code: 0, all photos were done; 1, some were left out and are named; 2, the command is
    wrong.
    """
    quiet_libraries()
    from dehaze.eval.plots import import_figure
    from dehaze.eval.predictors import study_predictors
    from dehaze.pipelines.dehaze import DehazePipeline

    try:
        import_figure()
        photos, left_out = readable_photos(pictures, output, limit)
        study = study_predictors(
            model.load(DehazePipeline),
            list(photos),
            steps=steps,
            command=command_line(),
            left_out=left_out,
        )
        result(study.markdown())
        written = study.write(output)
    except (DehazeError, ValueError) as error:
        raise CommandError(str(error)) from error
    note(f"written: {', '.join(map(str, written))}")
    exit_naming(context, left_out)
