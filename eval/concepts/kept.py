"""Pictures of a class by one method, in a folder with a record of how they were made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dehaze.digests import digest_of_file, is_whole
from dehaze.eval.concepts.methods import Array
from dehaze.photos import PhotoError, read_photo, write_bytes, write_photo

_RECORD = "made.json"


@dataclass(frozen=True)
class Made:
    """Pictures, and their cost.

    Attributes:
        pictures: float32 (h, w, 3) RGB in [0, 1].
        seconds: of all of them together, inversions left out.
        inverting: seconds of the inversions of the class; None where there were none.
    """

    pictures: Sequence[Array]
    seconds: float
    inverting: float | None


def keep(folder: Path, settings: Mapping[str, Any], made: Made) -> None:
    """Writes 00.png and so on, replacing earlier ones, and then made.json.

    Args:
        folder: made if missing.
        settings: all that the pictures depend on, ready for JSON.
        made: the pictures.

    Raises:
        PhotoError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Before the pictures, so that those of an interrupted run are never taken for whole.
    (folder / _RECORD).unlink(missing_ok=True)
    for stale in folder.glob("[0-9][0-9]*.png"):
        stale.unlink()
    names = [f"{number:02d}.png" for number in range(len(made.pictures))]
    for name, picture in zip(names, made.pictures, strict=True):
        write_photo(folder / name, picture)
    record = {
        "settings": settings,
        "files": {name: digest_of_file(folder / name) for name in names},
        "seconds": made.seconds,
        "inverting": made.inverting,
    }
    write_bytes(folder / _RECORD, json.dumps(record, indent=1).encode())


def find_kept(folder: Path, settings: Mapping[str, Any]) -> Made | None:
    """What ``keep`` wrote under the same settings, or None where it is missing or changed."""
    try:
        record = json.loads((folder / _RECORD).read_text("utf-8"))
        if record["settings"] != json.loads(json.dumps(settings)):
            return None
        if not is_whole(folder, record["files"]):
            return None
        pictures = [read_photo(folder / name).pixels for name in record["files"]]
        return Made(pictures, record["seconds"], record["inverting"])
    except (OSError, ValueError, KeyError, TypeError, PhotoError):
        return None
