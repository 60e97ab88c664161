"""Checks that must hold for an output folder at any moment, also after a kill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from dehaze.batch import JOURNAL_NAME
from dehaze.digests import digest_of_file
from dehaze.photos import read_photo


def results(output: Path) -> Iterator[Path]:
    """All files below a folder except dehaze's own."""
    return (
        path for path in output.rglob("*") if path.is_file() and not path.name.startswith(".dehaze")
    )


def check_output(output: Path) -> int:
    """Check that every file is complete and as the journal says; return the number of done photos.

    The journal is read by independent code.

    Raises:
        PhotoError: a file is no complete photo.
        AssertionError: a file that the journal calls done has changed.
    """
    for path in results(output):
        read_photo(path)
    done: dict[str, dict[str, str]] = {}
    if (output / JOURNAL_NAME).is_file():
        for line in (output / JOURNAL_NAME).read_bytes().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record["status"] == "done":
                done[record["output"]] = record["files"]
    for files in done.values():
        for name, expected in files.items():
            if digest_of_file(output / name) != expected:
                raise AssertionError(f"{name} is not what the journal says")
    return len(done)
