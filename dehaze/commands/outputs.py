"""Checks of a command's output files: none replaces an input, and earlier files are named."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dehaze.commands.reporting import CommandError, note
from dehaze.photos import InputFiles, printable


def check_inputs_stay(inputs: Iterable[Path], files: Iterable[Path], name: str = "folder") -> None:
    """Refuse files that would replace an input.

    Args:
        inputs: what is read.
        files: what will be written.
        name: what another ``-o`` names, "folder" or "file".

    Raises:
        CommandError: names the input.
    """
    read = InputFiles(inputs)
    for file in files:
        if read.at(file) is not None:
            raise CommandError(
                f"{printable(file)} is an input and would be replaced; name another {name} with -o"
            )


def note_earlier(folder: Path, pattern: str, written: Iterable[Path]) -> None:
    """Say which files of a pattern lie in a folder and are not among those just written."""
    earlier = sorted(set(folder.glob(pattern)) - set(written))
    if earlier:
        more = f" and {len(earlier) - 1} more" if len(earlier) > 1 else ""
        note(f"{printable(earlier[0])}{more}: of an earlier run, not of this one")
