"""Numbered pictures in a folder: they replace no photo, and those of an earlier run are told."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dehaze.commands.reporting import CommandError, note
from dehaze.photos import printable


def check_inputs_stay(inputs: Iterable[Path], files: Iterable[Path]) -> None:
    """Refuses files that would replace an input.

    Args:
        inputs: what is read.
        files: what will be written.

    Raises:
        CommandError: names the input.
    """
    read = {path.resolve() for path in inputs}
    for file in files:
        if file.resolve() in read:
            raise CommandError(
                f"{printable(file)} is an input and would be replaced; name another folder with -o"
            )


def note_earlier(folder: Path, pattern: str, written: Iterable[Path]) -> None:
    """Says which files of a pattern lie in a folder and are not among those just written."""
    earlier = sorted(set(folder.glob(pattern)) - set(written))
    if earlier:
        more = f" and {len(earlier) - 1} more" if len(earlier) > 1 else ""
        note(f"{printable(earlier[0])}{more}: of an earlier run, not of this one")
