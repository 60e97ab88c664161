"""``dehaze evaluate appearance``: words with known answers, removed and replaced."""

from __future__ import annotations

from pathlib import Path

import click

from dehaze.commands import CommandError, RegistryChoice, quiet_libraries
from dehaze.commands.evaluate.parameters import (
    Names,
    command_line,
    device_option,
    limit_option,
    model_option,
    output_option,
    recoveries,
)
from dehaze.errors import DehazeError


@click.command(short_help="Score edits of words with a known answer.")
@click.argument("pictures", metavar="FOLDER", type=click.Path(path_type=Path))
@output_option("appearance.md, .csv and .json")
@click.option(
    "--words",
    type=Names(),
    default=(),
    help="Appearances with commas between them; a wrong name lists them.  [default: all]",
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="METHOD",
    help="A row of the table; may be repeated; a wrong name lists them.  [default: all]",
)
@click.option(
    "--recovery",
    type=RegistryChoice(recoveries),
    default="affine",
    show_default=True,
    metavar="NAME",
    help="As in edit.",
)
@limit_option
@model_option
@device_option
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def appearance(
    pictures: Path,
    output: Path,
    words: tuple[str, ...],
    methods: tuple[str, ...],
    recovery: str,
    limit: int | None,
    model: str,
    device: str,
    seed: int,
) -> None:
    """Remove and replace words that were rendered over the clear pictures of a FOLDER.

    Haze, night, sunset, snow, rain, black and white, and blur are rendered by documented
    procedures, so the answer is known: the clear picture, or the picture under the other word.
    """
    quiet_libraries()
    from dehaze.datasets import open_photo_folder, read_rgb
    from dehaze.datasets.appearance import APPEARANCES
    from dehaze.eval.appearance import evaluate_appearance, get_methods
    from dehaze.eval.methods import PipelineOptions, load_pipeline
    from dehaze.pipelines.base import as_pixels
    from dehaze.pipelines.edit import EditPipeline

    try:
        chosen = get_methods(methods)
        dataset = open_photo_folder(pictures)
        samples = dataset.samples if limit is None else dataset.spread(limit)
        table = evaluate_appearance(
            EditPipeline.sharing(load_pipeline(PipelineOptions(model=model, device=device))),
            [as_pixels(read_rgb(sample.hazy).pixels) for sample in samples],
            words=words or tuple(APPEARANCES.names()),
            methods=chosen,
            seed=seed,
            recovery=recovery,
            command=command_line(),
            on_photo=lambda word, number: click.echo(
                f"{word}: photo {number + 1} of {len(samples)}", err=True
            ),
        )
        click.echo(table.markdown())
        written = table.write(output)
    except DehazeError as error:
        raise CommandError(str(error)) from error
    click.echo(f"Written: {', '.join(map(str, written))}", err=True)
