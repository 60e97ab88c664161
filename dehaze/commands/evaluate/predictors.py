"""``dehaze evaluate predictors``: how good the first guesses of the steps are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dehaze.commands import options
from dehaze.commands.command import Command
from dehaze.commands.evaluate.parameters import command_line
from dehaze.commands.evaluate.pictures import open_photos
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
def predictors(
    pictures: Path, output: Path, steps: int, limit: int | None, model: ModelChoice
) -> None:
    """Solve every step of the inversions of the pictures in FOLDER, and compare the guesses.

    A predictor guesses a step's latent without evaluating the network. The table has the mean and
    the variance of each guess's error; the plot also has their histograms.
    """
    quiet_libraries()
    from dehaze.datasets import PhotoFiles
    from dehaze.eval.plots import import_figure
    from dehaze.eval.predictors import study_predictors
    from dehaze.pipelines.dehaze import DehazePipeline

    try:
        import_figure()
        samples = open_photos(pictures, output).spread(limit)
        photos = list(PhotoFiles(sample.hazy for sample in samples))
        study = study_predictors(
            model.load(DehazePipeline), photos, steps=steps, command=command_line()
        )
        result(study.markdown())
        written = study.write(output)
    except (DehazeError, ValueError) as error:
        raise CommandError(str(error)) from error
    note(f"written: {', '.join(map(str, written))}")
