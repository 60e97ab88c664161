"""Whether files, settings and code have changed: by their SHA-256, or by a file's stamp."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20
_PACKAGE = Path(__file__).parent
# Folders of the package whose code decides nothing about a dehazed picture.
_BESIDE_RESULTS = frozenset({"commands", "datasets", "eval", "report", "webui"})


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal; the file is read block by block.

    Raises:
        OSError: the file cannot be read.
    """
    content = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            content.update(block)
    return content.hexdigest()


def stamp_of_file(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change in nanoseconds, which cost less than a digest.

    Raises:
        OSError: the file cannot be looked at.
    """
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def is_whole(folder: Path, files: Mapping[str, str]) -> bool:
    """Whether every file still holds what was written.

    Args:
        folder: that their paths are relative to.
        files: the SHA-256 of each, by its path.
    """
    return all(
        (folder / name).is_file() and digest_of_file(folder / name) == expected
        for name, expected in files.items()
    )


def digest_of_json(values: Any) -> str:
    """SHA-256 of JSON values, in hexadecimal; the order of their keys does not matter.

    Example:
        >>> digest_of_json({"a": 1, "b": 2}) == digest_of_json({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@cache
def digest_of_code() -> str:
    """SHA-256 of the code that makes results: two versions of one number may differ in it."""
    return digest_of_folder(_PACKAGE, _BESIDE_RESULTS)


def digest_of_folder(folder: Path, without: Collection[str] = ()) -> str:
    """SHA-256 of the names and contents of all Python files of a folder.

    Args:
        folder: is searched to the bottom.
        without: names of folders directly below it that are left out.
    """
    paths = (path.relative_to(folder) for path in folder.rglob("*.py"))
    return digest_of_json(
        {
            path.as_posix(): digest_of_file(folder / path)
            for path in paths
            if path.parts[0] not in without
        }
    )
