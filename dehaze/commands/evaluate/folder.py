"""``dehaze evaluate folder``: methods scored on a user's own pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dehaze.commands.command import Command
from dehaze.commands.evaluate.pictures import open_pictures, truth_options
from dehaze.commands.evaluate.scoring import score_methods, scoring_options


@click.command(cls=Command, short_help="Score methods on a folder of pictures.")
@click.argument("pictures", metavar="FOLDER", type=click.Path(path_type=Path))
@truth_options
@scoring_options
@click.pass_context
def folder(
    context: click.Context,
    /,
    pictures: Path,
    gt: Path | None,
    render: str | None,
    limit: int | None,
    **choices: Any,
) -> None:
    """Score methods on any FOLDER of pictures.

    FOLDER holds hazy/ and gt/, or hazy pictures whose ground truth --gt names, or any pictures
    without ground truth: --perceptual scores these, and report.html shows them. With --render it
    holds clear pictures: haze of known transmission and airlight is rendered over them, and the
    haze maps are scored, too.
    """
    from dehaze.eval.runner import EvaluationSet

    dataset = open_pictures(
        pictures, choices["output"], gt=gt, render=render, seed=choices["seed"], limit=limit
    )
    samples = dataset.spread(limit)
    context.exit(score_methods((EvaluationSet(dataset, samples),), **choices))
