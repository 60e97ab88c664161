"""The report of a folder job."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dehaze.batch import Outcome
from dehaze.photos import PhotoError, printable
from dehaze.report.cards import Card, card_from_files, read_card
from dehaze.report.page import Column, Entry, Layer, Report

REPORT_NAME = "report.html"

# What a card calls its pictures, and what a person does.
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
        explanation="Mean difference between photo and result, in levels of 255.",
    ),
    Column("seconds", "time", digits=1, unit=" s", explanation="Reading and writing included."),
)


def report_of_job(
    folder: Path,
    outcomes: Sequence[Outcome],
    settings: Mapping[str, Any],
    *,
    unreached: int = 0,
) -> Report:
    """The report of what became of a job's photos.

    Args:
        folder: the output folder, where the report will lie.
        outcomes: one a photo.
        settings: what the results were made with; None stands for the model's own choice.
        unreached: how many photos the job did not reach.
    """
    shared = _shared_folder([outcome.source for outcome in outcomes])
    entries = tuple(_entry(folder, outcome, shared) for outcome in outcomes)
    return Report(
        title=f"dehaze: {printable(Path(os.path.abspath(folder)).name)}",
        summary=_summary(outcomes, unreached),
        settings={
            name: printable(str(value)) for name, value in settings.items() if value is not None
        },
        columns=COLUMNS,
        entries=entries,
    )


def _summary(outcomes: Sequence[Outcome], unreached: int) -> str:
    counts = {
        status: sum(outcome.status == status for outcome in outcomes)
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


def _entry(folder: Path, outcome: Outcome, shared: Path) -> Entry:
    name = printable(os.path.relpath(outcome.source, shared) if shared.name else outcome.source)
    if outcome.error is not None or outcome.output is None:
        error = outcome.error
        why = "no result" if error is None else f"{error.cause}; {error.cure}"
        return Entry(name, status="failed", notes=outcome.notes, error=why)
    card, notes = _card(folder, outcome)
    if card is None:
        return Entry(name, status=outcome.status, notes=notes)
    values = dict(card.values)
    if outcome.seconds:
        values["seconds"] = outcome.seconds
    files = {
        LAYER_NAMES["before"]: _address(outcome.source, folder),
        LAYER_NAMES["after"]: _address(outcome.output, folder),
    }
    return Entry(
        name,
        status=outcome.status,
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


def _card(folder: Path, outcome: Outcome) -> tuple[Card | None, tuple[str, ...]]:
    """The photo's card, kept or made anew, and what is to be said of the photo."""
    if outcome.output is None:
        return None, outcome.notes
    card = read_card(folder, outcome.output)
    if card is None:
        try:
            card = card_from_files(folder, outcome.source, outcome.output)
        except (PhotoError, OSError) as error:
            cause = error.cause if isinstance(error, PhotoError) else error.strerror
            return None, (*outcome.notes, f"cannot be shown: {cause}")
    return card, outcome.notes


def _address(path: Path, folder: Path) -> str | None:
    """A file as a URL as seen from the report, or None where there is no way to it."""
    try:
        relative = Path(os.path.relpath(path, folder)).as_posix()
        return quote(relative.encode(errors="surrogateescape"))
    except ValueError:
        # Another drive.
        return None
