"""The input files of a command, so that no result replaces one."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path


class InputFiles:
    """The files that a command reads, found again by where they lie.

    A result is put in place by renaming. A link of its name would be replaced, and the file that
    the link leads to would stay: so links to folders are followed, and the name itself is not.

    Example:
        >>> InputFiles([Path("a.jpg")]).at(Path("a.png")) is None
        True
        >>> InputFiles([Path("a.jpg")]).at(Path("./a.jpg")).name
        'a.jpg'
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._by_place: dict[str, Path] = {}
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        for path in paths:
            self._by_place[place_of(path)] = path
            self._by_place[target_of(path)] = path
            self._by_name[path.name.casefold()].append(path)

    def at(self, output: Path) -> Path | None:
        """The input that a file of this name would replace; None where it would replace none."""
        found = self._by_place.get(place_of(output))
        if found is None:
            alike = self._by_name.get(output.name.casefold(), [])
            found = next((path for path in alike if _is_one(path, output)), None)
        return found


def place_of(path: Path) -> str:
    """Where a name lies: links to folders followed, the name itself not; folded on Windows."""
    return os.path.normcase(os.path.join(os.path.realpath(path.parent), path.name))


def target_of(path: Path) -> str:
    """The file that a name leads to, with all links followed; case-folded on Windows."""
    return os.path.normcase(os.path.realpath(path))


def _is_one(path: Path, other: Path) -> bool:
    """Whether two names of one folder are one file, as on disks that ignore case."""
    try:
        same = os.path.samestat(os.lstat(path), os.lstat(other))
        return same and os.path.samefile(path.parent, other.parent)
    except OSError:
        return False
