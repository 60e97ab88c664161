"""``dehaze run - -o -``: one photo in, its result to standard output."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dehaze.commands.command import refuse_idle_options
from dehaze.commands.reporting import CommandError
from dehaze.commands.summaries import Text

if TYPE_CHECKING:
    from dehaze.batch import Item, Work
    from dehaze.photos import ResultFile

STREAM = Path("-")


def check_streams(context: click.Context, inputs: tuple[Path, ...], output: Path) -> None:
    """Refuse what cannot go through standard input or output.

    Raises:
        click.UsageError: several photos for one output, or a photo without a name for a folder.
        CommandError: a terminal stands where a photo is to come from or go to, or nothing does.
    """
    if output != STREAM:
        if STREAM in inputs:
            raise click.UsageError(
                "a photo from standard input has no name to be written under; add -o -.", context
            )
        return
    if len(inputs) > 1 or inputs[0].is_dir():
        raise click.UsageError("-o - takes one photo; name a folder with -o.", context)
    if sys.stdout is None:
        raise CommandError("standard output is closed; send the photo on with > or |")
    if inputs[0] == STREAM and sys.stdin is None:
        raise CommandError("standard input is closed; send a photo with < or |")
    if sys.stdout.isatty():
        raise CommandError("the photo would go to the terminal; send it on with > or |")
    if inputs[0] == STREAM and sys.stdin.isatty():
        raise CommandError("no photo comes from standard input; send one with < or |")


def dehaze_stream(
    context: click.Context, source: Path, work: Work, result_file: ResultFile, megapixels: float
) -> int:
    """Dehaze one photo, and write the result to standard output.

    Args:
        context: of the command.
        source: the photo, or ``STREAM``.
        work: what is done to it.
        result_file: how the result's coding differs from the photo's.
        megapixels: a larger photo fails.

    Returns:
        The exit code: 0, or 1 where the photo failed and nothing was written.
    """
    from dehaze.batch import Item
    from dehaze.batch.effect import measure
    from dehaze.batch.item import process_items, step_of
    from dehaze.photos import encode_photo, open_bytes, open_photo
    from dehaze.photos.formats import FORMATS

    name = Path("standard input") if source == STREAM else source
    item = Item(name, Path(), Path(), megapixels, result_file)
    with step_of(item):
        if source == STREAM:
            data = sys.stdin.buffer.read()
            file = open_bytes(data, name, max_megapixels=megapixels)
        else:
            file = open_photo(source, max_megapixels=megapixels)
        item.photo = result_file.applied_to(file.decode(), name)
    if item.error is not None:
        return _end(item)
    photo = item.decoded()
    held = {"photos": True, "clips": False}
    refuse_idle_options(context, held | {"lossy": FORMATS.get(photo.encoding.format).has_quality})
    process_items([item], work.start())
    coded = b""
    if item.error is None:
        with step_of(item):
            # A model gives a result with maps, a prior the picture alone.
            pixels = getattr(item.result, "image", item.result)
            coded = encode_photo(Path("standard output"), pixels, photo)
            item.effect = measure(photo.pixels, pixels, context.params["strength"])
            item.notes = (*photo.notes, *item.notes)
            item.status = "done"
    sys.stdout.buffer.write(coded)
    return _end(item)


def _end(item: Item) -> int:
    Text().item(item)
    return 0 if item.error is None else 1
