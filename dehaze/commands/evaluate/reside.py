"""``dehaze evaluate reside``: methods scored on published sets of pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dehaze.commands.command import Command, option
from dehaze.commands.evaluate.scoring import score_methods, scoring_options
from dehaze.commands.param_types import Names
from dehaze.commands.reporting import CommandError


@click.command(cls=Command, short_help="Score methods on RESIDE, NTIRE's sets and Haze4K.")
@option(
    "--root",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER",
    help="The folder that holds the data sets.",
)
@option(
    "--subset",
    "subsets",
    type=Names(),
    default="sots-indoor,sots-outdoor",
    show_default=True,
    help="Data sets with commas between them; a wrong name lists them.",
)
@scoring_options
@click.pass_context
def reside(
    context: click.Context,
    /,
    root: Path,
    subsets: tuple[str, ...],
    limit: int | None,
    **choices: Any,
) -> None:
    """Score methods on RESIDE, NTIRE's sets and Haze4K."""
    from dehaze.datasets import DatasetNotFoundError
    from dehaze.eval.reside import open_subsets
    from dehaze.registry import UnknownNameError

    try:
        sets = open_subsets(root, subsets, limit, results=[choices["output"]])
    except UnknownNameError as error:
        raise click.BadParameter(str(error), param_hint="--subset") from error
    except DatasetNotFoundError as error:
        raise CommandError(str(error)) from error
    context.exit(score_methods(sets, **choices))
