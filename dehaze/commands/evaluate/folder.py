"""``dehaze evaluate folder``: methods scored on anybody's own pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dehaze.commands import options
from dehaze.commands.command import Command, option, with_any
from dehaze.commands.evaluate.parameters import haze_kinds
from dehaze.commands.evaluate.scoring import score_methods, scoring_options
from dehaze.commands.options import RegistryChoice
from dehaze.commands.reporting import CommandError
from dehaze.errors import DehazeError


@click.command(cls=Command, short_help="Score methods on a folder of pictures.")
@click.argument("pictures", metavar="FOLDER", type=click.Path(path_type=Path))
@option(
    "--gt",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="The ground truth of the pictures in FOLDER.",
)
@option(
    "--render",
    type=RegistryChoice(haze_kinds),
    metavar="KIND",
    help="Render haze, fog, mist, smog or smoke over the clear pictures in FOLDER first.",
)
@options.seed(effect=with_any("render"), help="Of the rendered haze.")
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
    from dehaze.datasets import (
        open_folder,
        open_paired_folder,
        open_photo_folder,
        render_dataset,
    )
    from dehaze.eval.runner import EvaluationSet

    if gt is not None and render is not None:
        raise click.UsageError("--gt names the truth of hazy pictures, --render makes hazy ones.")
    try:
        if render is not None:
            dataset = render_dataset(
                open_photo_folder(pictures),
                choices["output"] / "rendered",
                kind=render,
                seed=choices["seed"],
                limit=limit,
            )
        else:
            dataset = open_folder(pictures) if gt is None else open_paired_folder(pictures, gt)
    except DehazeError as error:
        raise CommandError(str(error)) from error
    samples = dataset.samples if limit is None else dataset.spread(limit)
    context.exit(score_methods((EvaluationSet(dataset, samples),), **choices))
