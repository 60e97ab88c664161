"""``dehaze evaluate``: numbers that name their protocol and can be produced again."""

from __future__ import annotations

import click

from dehaze.commands.command import Group
from dehaze.commands.evaluate.appearance import appearance
from dehaze.commands.evaluate.concepts import concepts
from dehaze.commands.evaluate.convergence import convergence
from dehaze.commands.evaluate.folder import folder
from dehaze.commands.evaluate.inversion import inversion
from dehaze.commands.evaluate.pie_bench import pie_bench
from dehaze.commands.evaluate.predictors import predictors
from dehaze.commands.evaluate.reside import reside
from dehaze.commands.evaluate.variants import variants


@click.group(cls=Group)
def evaluate() -> None:
    """Measure methods on published data sets or your own pictures.

    Every number names its protocol, "dehaze-bench v1" or a variant of it. A run that is
    interrupted continues where it stopped.

    Exit code: 0, all was scored; 1, something failed and is named; 2, the command is wrong.
    """


for command in (
    reside,
    folder,
    variants,
    appearance,
    pie_bench,
    inversion,
    convergence,
    predictors,
    concepts,
):
    evaluate.add_command(command)
