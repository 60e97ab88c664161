"""What must hold of an output folder at any moment, whatever has happened to its job."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from dehaze.batch import JOURNAL_NAME
from dehaze.digests import digest_of_file
from dehaze.photos import read_photo


def results(output: Path) -> Iterator[Path]:
    """All files below a folder but dehaze's own."""
    return (
        path for path in output.rglob("*") if path.is_file() and not path.name.startswith(".dehaze")
    )


def check_output(output: Path) -> int:
    """See to it that all that is there is whole and true; how many photos are done.

    The journal is read here by other code than the job's own.

    Raises:
        PhotoError: a file is no whole photo.
        AssertionError: a file that the journal calls done is not as it was written.
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
