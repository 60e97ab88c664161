"""The report of a folder job."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dehaze.batch import Item
from dehaze.digests import is_whole
from dehaze.photos import PhotoError, printable
from dehaze.report.cards import Card, card_from_files, cause_of, read_card
from dehaze.report.page import Column, Entry, Layer, Report

REPORT_NAME = "report.html"

# The names of pictures in a card, and in the report.
LAYER_NAMES = {
    "before": "photo",
    "after": "result",
    "attention": "haze attention",
    "transmission": "transmission",
}

COLUMNS = (
    Column(
        "density",
        "haze",
        digits=0,
        unit=" %",
        factor=100.0,
        explanation="Mean share of the light that comes from the haze: 1 - transmission.",
    ),
    Column(
        "lightness",
        "lightness",
        digits=0,
        unit=" %",
        factor=100.0,
        explanation="Mean lightness of the result, of that of the photo.",
    ),
    Column(
        "change",
        "change",
        digits=0,
        unit=" of 255",
        explanation="Mean difference between photo and result, in levels of 255.",
    ),
    Column("seconds", "time", digits=1, unit=" s", explanation="Reading and writing included."),
)


def report_of_job(
    folder: Path,
    items: Sequence[Item],
    settings: Mapping[str, Any],
    *,
    unreached: int = 0,
) -> Report:
    """The report of a job's photos.

    Args:
        folder: the output folder, where the report will lie.
        items: one a photo.
        settings: what the results were made with; None stands for the model's own choice.
        unreached: how many photos the job did not reach.
    """
    shared = _shared_folder([item.source for item in items])
    entries = tuple(_entry(folder, item, shared) for item in items)
    return Report(
        title=f"dehaze: {printable(Path(os.path.abspath(folder)).name)}",
        summary=_summary(items, unreached),
        settings={
            name: printable(str(value)) for name, value in settings.items() if value is not None
        },
        columns=COLUMNS,
        entries=entries,
    )


def _summary(items: Sequence[Item], unreached: int) -> str:
    counts = {
        status: sum(item.status == status for item in items)
        for status in ("done", "kept", "failed")
    }
    parts = [f"{counts['done']} done"]
    if counts["kept"]:
        parts.append(f"{counts['kept']} kept from an earlier run")
    if counts["failed"]:
        parts.append(f"{counts['failed']} failed")
    if unreached:
        parts.append(f"{unreached} not reached")
    return ", ".join(parts)


def _shared_folder(sources: Sequence[Path]) -> Path:
    """The folder that all photos lie in, at some depth; an empty path where there is none."""
    try:
        return Path(os.path.commonpath([os.path.abspath(source.parent) for source in sources]))
    except ValueError:
        # No photo, or several drives.
        return Path()


def _entry(folder: Path, item: Item, shared: Path) -> Entry:
    name = printable(os.path.relpath(item.source, shared) if shared.name else item.source)
    if item.error is not None:
        why = f"{item.error.cause}; {item.error.cure}"
        return Entry(name, status="failed", notes=item.notes, error=why)
    card, notes = _card(folder, item)
    if card is None:
        return Entry(name, status="kept" if item.status == "kept" else "done", notes=notes)
    values = dict(card.values)
    if item.seconds:
        values["seconds"] = item.seconds
    files = {
        LAYER_NAMES["before"]: _address(item.source, folder),
        LAYER_NAMES["after"]: _address(item.output, folder),
    }
    return Entry(
        name,
        status="kept" if item.status == "kept" else "done",
        layers=tuple(
            Layer(title, card.pictures[key])
            for key, title in LAYER_NAMES.items()
            if key in card.pictures
        ),
        values=values,
        notes=notes,
        size=card.size,
        files={layer: address for layer, address in files.items() if address is not None},
    )


def _card(folder: Path, item: Item) -> tuple[Card | None, tuple[str, ...]]:
    """The photo's card, kept or made anew, and the sentences about the photo."""
    notes = (*item.notes, *item.effect.sentences())
    card = read_card(folder, item.output)
    if card is None and not is_whole(folder, item.files):
        return None, (*notes, "cannot be shown: its result was changed or removed since")
    if card is None:
        try:
            card = card_from_files(folder, item.source, item.output)
        except (PhotoError, OSError) as error:
            return None, (*notes, f"cannot be shown: {cause_of(error)}")
    return card, notes


def _address(path: Path, folder: Path) -> str | None:
    """A file as a URL as seen from the report, or None where there is no way to it."""
    try:
        relative = Path(os.path.relpath(path, folder)).as_posix()
        return quote(relative.encode(errors="surrogateescape"))
    except ValueError:
        # Another drive.
        return None
