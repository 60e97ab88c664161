"""Plans a job: decides all that it will do before any of it is done."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dehaze.batch.item import Item
from dehaze.batch.journal import JOURNAL_NAME
from dehaze.errors import DehazeError, reason
from dehaze.photos import (
    MAX_MEGAPIXELS,
    PHOTO_SUFFIXES,
    UNSUPPORTED_SUFFIXES,
    InputFiles,
    PhotoError,
    ResultFile,
    place_of,
    printable,
    target_of,
)

# Names of hidden files and folders begin so: thumbnails, the trash, attributes of macOS.
_HIDDEN = "."
# Folders in which devices and programs keep thumbnails, snapshots and deleted photos (of Synology,
# QNAP, NetApp, Windows, macOS, Linux), in lower case.
_OF_DEVICES = frozenset(
    {"@eadir", "@recycle", "#recycle", "#snapshot", "@tmp", "$recycle.bin", "recycler"}
    | {"@__thumb", "@recently-snapshot", "@sharebin", "@synoeastream", "@synoresource", "@database"}
    | {"system volume information", "found.000", "recycled", "dfsrprivate", "~snapshot"}
    | {"lost+found", "__macosx", "network trash folder", "temporary items"}
    | {"thevolumesettingsfolder", "thumbs", "thumbnails"}
)


class PlanError(DehazeError, ValueError):
    """A job that cannot be planned, in one line: what stands in the way, and the cure."""


@dataclass(frozen=True)
class Plan:
    """The plan of a job.

    Attributes:
        output: the output folder.
        photos: in the order of the inputs, by name within a folder, none of them begun.
        passed_over: files in input folders that are not photos, or hidden, or that a device keeps
            for itself (thumbnails, the trash).
        unreadable: folders that could not be listed.
        results: folders that hold the results of an earlier job, and are not searched.
        searched: the inputs that are folders.
    """

    output: Path
    photos: tuple[Item, ...]
    passed_over: tuple[Path, ...] = ()
    unreadable: tuple[PhotoError, ...] = ()
    results: tuple[Path, ...] = ()
    searched: tuple[Path, ...] = ()

    def sizes_left(self, *, overwrite: bool) -> list[int]:
        """Bytes of the file of each photo that has no output yet, or of every photo."""
        return [
            _size(photo.source)
            for photo in self.photos
            if overwrite or not os.path.lexists(photo.output)
        ]

    def counts(self) -> PlanCounts:
        """The plan in numbers, by the present state of the disk."""
        inside = target_of(self.output) + os.sep
        return PlanCounts(
            photos=len(self.photos),
            megabytes=sum(_size(photo.source) for photo in self.photos) / 1e6,
            existing=sum(os.path.lexists(photo.output) for photo in self.photos),
            unsupported=sum(
                photo.source.suffix.lower() in UNSUPPORTED_SUFFIXES for photo in self.photos
            ),
            inside_input=any(
                inside.startswith(target_of(folder) + os.sep) for folder in self.searched
            ),
            passed_over=len(self.passed_over),
            unreadable=len(self.unreadable),
        )


@dataclass(frozen=True)
class PlanCounts:
    """A plan in numbers.

    Attributes:
        photos: how many there are.
        megabytes: that their files take, 10^6 bytes.
        existing: how many have a file at their output's place.
        unsupported: how many are of a kind that cannot be read, by their names.
        inside_input: whether the output folder lies inside of an input.
        passed_over: files that are no photos, are hidden, or that a device keeps for itself.
        unreadable: folders that could not be listed.
    """

    photos: int
    megabytes: float
    existing: int
    unsupported: int
    inside_input: bool
    passed_over: int
    unreadable: int


@dataclass
class _Root:
    """One input: a folder or a file, and its photos by their path below it."""

    path: Path
    is_folder: bool
    members: dict[Path, Path]

    @property
    def label(self) -> str:
        absolute = Path(os.path.abspath(self.path))
        return absolute.name if self.is_folder else absolute.parent.name


class _Search:
    """Lists folders to the bottom, and remembers those that it did not enter."""

    def __init__(self, closed: str) -> None:
        self._closed = closed
        self.unreadable: list[PhotoError] = []
        self.results: list[Path] = []

    def files_below(self, folder: Path, ancestors: tuple[str, ...] = ()) -> list[Path]:
        """Every file below the folder, by name."""
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            cause = f"cannot be listed ({reason(error)})"
            self.unreadable.append(PhotoError(folder, cause, "check the folder's permissions"))
            return []
        ancestors = (*ancestors, target_of(folder))
        files: list[Path] = []
        for entry in entries:
            if not os.path.isdir(entry):
                files.append(entry)
            # A link to a folder above would never end.
            elif target_of(entry) == self._closed or target_of(entry) in ancestors:
                continue
            elif os.path.isfile(entry / JOURNAL_NAME):
                self.results.append(entry)
            else:
                files += self.files_below(entry, ancestors)
        return files


def plan(
    inputs: Sequence[Path],
    output: Path,
    *,
    beside: Sequence[str] = (),
    results: bool = True,
    max_megapixels: float = MAX_MEGAPIXELS,
    result_file: ResultFile | None = None,
) -> Plan:
    """Decide what is read and where each result goes; nothing is read or written yet.

    Files named in ``inputs`` are taken whatever their name. Folders are searched to the bottom for
    photos, links to folders included, but neither into the output folder nor into a subfolder that
    an earlier job wrote. Subfolders are kept; where inputs would meet in one output, each of them
    gets the name of its folder as well.

    Args:
        inputs: files and folders.
        output: the output folder; it need not exist.
        beside: what is appended to an output's name for the files written next to it.
        results: whether a file of the output's own name is written.
        max_megapixels: larger photos fail.
        result_file: how the results' files differ from their photos'; None for not at all.

    Raises:
        PlanError: a missing input, an output that is an input or is claimed twice, or an output
            folder that is a file.
    """
    result_file = result_file or ResultFile()
    if not output.is_dir() and (output.exists() or output.suffix.lower() in PHOTO_SUFFIXES):
        raise PlanError(f"{printable(output)}: the output must be a folder; name one with -o")
    roots: list[_Root] = []
    search = _Search(closed=target_of(output))
    passed_over: list[Path] = []
    planned: set[str] = set()
    for path in inputs:
        if not os.path.exists(path):
            raise PlanError(f"{printable(path)}: does not exist; check the name")
        root = _Root(path, is_folder=path.is_dir(), members={})
        if not root.is_folder:
            found = [path]
        elif target_of(path) == target_of(output):
            raise PlanError(
                f"{printable(path)}: is the output folder as well; name another one with -o"
            )
        else:
            found = search.files_below(path)
        for source in found:
            if root.is_folder and not _is_wanted(source.relative_to(path)):
                passed_over.append(source)
            elif os.path.abspath(source) not in planned:
                planned.add(os.path.abspath(source))
                below = source.relative_to(path) if root.is_folder else Path(source.name)
                root.members[below] = source
        roots.append(root)

    photos = tuple(
        Item(
            source,
            output,
            prefix / result_file.name(below),
            max_megapixels,
            result_file,
            tuple(beside),
        )
        for root, prefix in zip(roots, _prefixes(roots, result_file), strict=True)
        for below, source in root.members.items()
    )
    check_claims(photos, ("", *beside) if results else beside)
    return Plan(
        output=output,
        photos=photos,
        passed_over=tuple(path for path in passed_over if os.path.abspath(path) not in planned),
        unreadable=tuple(search.unreadable),
        results=tuple(search.results),
        searched=tuple(root.path for root in roots if root.is_folder),
    )


def check_room(plan: Plan) -> None:
    """Check that the disk has room for the results, about as much as their photos take.

    A result in another format takes more or less, see ``ResultFile.growth``.

    Raises:
        PlanError: it has not.
    """
    new = sum(
        _size(photo.source) * photo.result_file.growth(photo.source)
        for photo in plan.photos
        if not os.path.lexists(photo.output)
    )
    place = Path(os.path.abspath(plan.output))
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < new:
        raise PlanError(
            f"{printable(plan.output)}: the results take about {new / 1e6:.0f} MB and the disk has "
            f"{free / 1e6:.0f} MB left; make room, name another folder with -o, or do fewer photos "
            "at a time"
        )


def _size(path: Path) -> int:
    """The file's size in bytes; 0 for a file without access, which will fail by name."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _is_wanted(below: Path) -> bool:
    """Whether a file is a photo of the user's, by its path below the folder that was named."""
    return (
        below.suffix.lower() in PHOTO_SUFFIXES | UNSUPPORTED_SUFFIXES
        and not any(part.startswith(_HIDDEN) for part in below.parts)
        and not any(part.lower() in _OF_DEVICES for part in below.parts[:-1])
    )


def _prefixes(roots: Sequence[_Root], result_file: ResultFile) -> list[Path]:
    """The folder name that keeps each root apart from the others, or an empty path."""
    owners: dict[str, set[int]] = defaultdict(set)
    for index, root in enumerate(roots):
        for below in root.members:
            owners[os.path.normcase(result_file.name(below))].add(index)
    meeting: set[int] = set()
    for indices in owners.values():
        if len(indices) > 1:
            meeting |= indices
    return [Path(root.label if index in meeting else "") for index, root in enumerate(roots)]


def check_claims(photos: Sequence[Item], endings: Sequence[str]) -> None:
    """Check that no file that is written is an input, or the file of another photo.

    Args:
        photos: planned ones.
        endings: what is appended to an output's name, for each file that is written.

    Raises:
        PlanError: one is.
    """
    inputs = InputFiles(photo.source for photo in photos)
    claims: dict[str, Path] = {}
    for photo in photos:
        for ending in endings:
            output = photo.output.with_name(photo.output.name + ending)
            replaced = inputs.at(output)
            if replaced is not None:
                raise PlanError(
                    f"{printable(photo.source)}: its output would replace the input "
                    f"{printable(replaced)}; name another folder with -o"
                )
            other = claims.setdefault(place_of(output), photo.source)
            if other is not photo.source:
                raise PlanError(
                    f"{printable(photo.source)}: would be written to the same file as "
                    f"{printable(other)}, {printable(output)}; do them in two runs, "
                    "into two folders"
                )
