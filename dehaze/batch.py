"""A folder job: plan it, run it, resume it, and account for every photo.

The plan is made before any work: each photo has one output, no input is ever an output, and what
cannot be planned is an error at once. A journal in the output folder remembers what was made, from
what, and how, so that a second run does only what is left.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from dehaze.images import (
    MAX_MEGAPIXELS,
    PHOTO_SUFFIXES,
    UNSUPPORTED_SUFFIXES,
    Photo,
    PhotoError,
    printable,
    read_photo,
)

Result = TypeVar("Result")
Record = dict[str, Any]

JOURNAL_NAME = ".dehaze.jsonl"
_RECORD_KEYS = frozenset(
    {"output", "input", "settings", "size", "mtime_ns", "sha256", "status", "files"}
)
# macOS keeps a file's attributes beside it under its name with this prefix, suffix included.
_ATTRIBUTE_PREFIX = "._"

logger = logging.getLogger(__name__)


class PlanError(ValueError):
    """A job that cannot be planned, in one line: what stands in the way, and the cure."""


@dataclass(frozen=True)
class PlannedPhoto:
    """One photo and where it goes: ``output`` lies in the plan's folder, named as the source."""

    source: Path
    output: Path


@dataclass(frozen=True)
class Plan:
    """What a job will do.

    Attributes:
        output: the output folder.
        photos: in the order of the inputs, by name within a folder.
        passed_over: files in input folders that are not photos.
        unreadable: folders that could not be listed.
        results: folders that hold the results of an earlier job, and are not searched.
    """

    output: Path
    photos: tuple[PlannedPhoto, ...]
    passed_over: tuple[Path, ...] = ()
    unreadable: tuple[PhotoError, ...] = ()
    results: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Saved:
    """What was written for one photo.

    Attributes:
        files: every file, the photo first.
        nfe: network evaluations spent on it.
        residual: the worst residual of its inversion.
    """

    files: tuple[Path, ...]
    nfe: int
    residual: float


@dataclass(frozen=True)
class Outcome:
    """What became of one photo.

    Attributes:
        source: the photo, or the folder that could not be listed.
        status: "done" now, "kept" from an earlier run, or "failed".
        error: why it failed, or None.
        seconds: wall time, reading and writing included.
        nfe: network evaluations, 0 unless done.
        notes: what could not come back as it was.
    """

    source: Path
    status: Literal["done", "kept", "failed"]
    error: PhotoError | None = None
    seconds: float = 0.0
    nfe: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Summary:
    """What became of a job: one outcome a photo that was reached, and whether all were."""

    outcomes: tuple[Outcome, ...]
    interrupted: bool = False

    def having(self, status: Literal["done", "kept", "failed"]) -> list[Outcome]:
        """The outcomes with this status."""
        return [outcome for outcome in self.outcomes if outcome.status == status]

    @property
    def seconds_per_photo(self) -> float:
        """Mean wall time of the photos done, NaN without any."""
        done = self.having("done")
        return sum(outcome.seconds for outcome in done) / len(done) if done else math.nan

    @property
    def nfe_per_photo(self) -> float:
        """Mean network evaluations of the photos done, NaN without any."""
        done = self.having("done")
        return sum(outcome.nfe for outcome in done) / len(done) if done else math.nan


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
    """Lists folders to the bottom, and keeps what it could not or would not enter."""

    def __init__(self, closed: str) -> None:
        self._closed = closed
        self.unreadable: list[PhotoError] = []
        self.results: list[Path] = []

    def files_below(self, folder: Path, ancestors: tuple[str, ...] = ()) -> list[Path]:
        """Every file below the folder, by name."""
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            cause = f"cannot be listed ({error.strerror})"
            self.unreadable.append(PhotoError(folder, cause, "check the folder's permissions"))
            return []
        ancestors = (*ancestors, _real(folder))
        files: list[Path] = []
        for entry in entries:
            if not os.path.isdir(entry):
                files.append(entry)
            # A link back up would never end.
            elif _real(entry) == self._closed or _real(entry) in ancestors:
                continue
            elif os.path.isfile(entry / JOURNAL_NAME):
                self.results.append(entry)
            else:
                files += self.files_below(entry, ancestors)
        return files


def plan(inputs: Sequence[Path], output: Path, *, beside: Sequence[str] = ()) -> Plan:
    """Decide what is read and where each result goes; nothing is read or written yet.

    Files named in ``inputs`` are taken whatever their name. Folders are searched to the bottom for
    photos, links to folders included, but neither into the output folder nor into one that an
    earlier job wrote. Subfolders are kept; where inputs would meet in one output, each of them gets
    the name of its folder as well.

    Args:
        inputs: files and folders.
        output: the output folder; it need not exist.
        beside: what is appended to an output's name for the files written next to it.

    Raises:
        PlanError: a missing input, an output that is an input or is claimed twice, or an output
            folder that is a file.
    """
    if not output.is_dir() and (output.exists() or output.suffix.lower() in PHOTO_SUFFIXES):
        raise PlanError(f"{printable(output)}: the output must be a folder; name one with -o")
    roots: list[_Root] = []
    search = _Search(closed=_real(output))
    passed_over: list[Path] = []
    planned: set[str] = set()
    for path in inputs:
        if not os.path.exists(path):
            raise PlanError(f"{printable(path)}: does not exist; check the name")
        root = _Root(path, is_folder=path.is_dir(), members={})
        if not root.is_folder:
            found = [path]
        elif _real(path) == _real(output):
            raise PlanError(
                f"{printable(path)}: is the output folder as well; name another one with -o"
            )
        else:
            found = search.files_below(path)
        for source in found:
            if root.is_folder and not _has_photo_name(source):
                passed_over.append(source)
            elif os.path.abspath(source) not in planned:
                planned.add(os.path.abspath(source))
                below = source.relative_to(path) if root.is_folder else Path(source.name)
                root.members[below] = source
        roots.append(root)

    photos = tuple(
        PlannedPhoto(source, output / prefix / below)
        for root, prefix in zip(roots, _prefixes(roots), strict=True)
        for below, source in root.members.items()
    )
    _check_claims(photos, beside)
    return Plan(
        output=output,
        photos=photos,
        passed_over=tuple(path for path in passed_over if os.path.abspath(path) not in planned),
        unreadable=tuple(search.unreadable),
        results=tuple(search.results),
    )


def run(
    plan: Plan,
    process: Callable[[Photo], Result],
    save: Callable[[PlannedPhoto, Photo, Result], Saved],
    progress: Callable[[Outcome], None],
    *,
    settings: Mapping[str, Any],
    overwrite: bool = False,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> Summary:
    """Do the plan, photo by photo. A photo that fails is accounted for, and the next one is done.

    A photo is kept, not done again, when the journal says that its output was made from the same
    content under the same settings, and every file of it still holds what was written. An output
    that exists and that the journal does not know is left alone: that photo fails.

    Args:
        plan: from ``plan``.
        process: makes a result from a photo.
        save: writes the result to the planned output, and says what it wrote.
        progress: called with each outcome as it comes.
        settings: everything that decides the result, as JSON values.
        overwrite: do every photo, whatever is there.
        max_megapixels: larger photos fail.

    Returns:
        One outcome for each photo reached. Ctrl-C ends the job after discarding the photo in hand.

    Raises:
        PlanError: the output folder cannot be made.
    """
    try:
        plan.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PlanError(
            f"{printable(plan.output)}: cannot be made ({error.strerror}); name another with -o"
        ) from error
    job = _Job(plan.output, settings, overwrite)
    outcomes: list[Outcome] = []

    def account(outcome: Outcome) -> None:
        outcomes.append(outcome)
        progress(outcome)

    try:
        for unreadable in plan.unreadable:
            account(Outcome(unreadable.path, "failed", unreadable))
        for photo in plan.photos:
            account(job.attempt(photo, process, save, max_megapixels))
    except KeyboardInterrupt:
        return Summary(tuple(outcomes), interrupted=True)
    return Summary(tuple(outcomes))


class _Job:
    """One run over an output folder, with its journal: one JSON object a line, the last counts."""

    def __init__(self, output: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
        self._output = output
        self._overwrite = overwrite
        canonical = json.dumps(settings, sort_keys=True).encode()
        self._settings = hashlib.sha256(canonical).hexdigest()
        self._journal = output / JOURNAL_NAME
        self._records = self._read_journal()

    def attempt(
        self,
        photo: PlannedPhoto,
        process: Callable[[Photo], Result],
        save: Callable[[PlannedPhoto, Photo, Result], Saved],
        max_megapixels: float,
    ) -> Outcome:
        started = time.perf_counter()
        name = photo.output.relative_to(self._output).as_posix()
        record: Record = {
            "output": name,
            "input": _relative(photo.source, self._output),
            "settings": self._settings,
        }
        try:
            status = photo.source.stat()
            record |= {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
            if not self._overwrite and self._is_done(photo, record):
                return Outcome(photo.source, "kept")
            decoded = read_photo(photo.source, max_megapixels=max_megapixels)
            record["sha256"] = _digest(photo.source)
            self._refuse_strange_output(photo, record)
            result = process(decoded)
            photo.output.parent.mkdir(parents=True, exist_ok=True)
            # Said before the write: an output torn off from its record is still known as ours.
            self._append(record | {"status": "started", "files": {}})
            saved = save(photo, decoded, result)
            outcome = Outcome(
                photo.source,
                "done",
                seconds=time.perf_counter() - started,
                nfe=saved.nfe,
                notes=decoded.notes,
            )
            self._append(
                record
                | {
                    "status": "done",
                    "files": {
                        path.relative_to(self._output).as_posix(): _digest(path)
                        for path in saved.files
                    },
                    "seconds": round(outcome.seconds, 3),
                    "nfe": saved.nfe,
                    "residual": saved.residual if math.isfinite(saved.residual) else None,
                    "notes": decoded.notes,
                }
            )
        except Exception as error:
            logger.debug("%s failed", photo.source, exc_info=True)
            named = _named(photo.source, error)
            return Outcome(photo.source, "failed", named, time.perf_counter() - started)
        return outcome

    def _is_done(self, photo: PlannedPhoto, record: Record) -> bool:
        earlier = self._records.get(record["output"])
        if earlier is None or earlier["status"] != "done":
            return False
        if any(earlier[key] != record[key] for key in ("settings", "size")):
            return False
        touched = any(earlier[key] != record[key] for key in ("mtime_ns", "input"))
        if touched and earlier["sha256"] != _digest(photo.source):
            return False
        return all(
            (self._output / name).is_file() and _digest(self._output / name) == digest
            for name, digest in earlier["files"].items()
        )

    def _refuse_strange_output(self, photo: PlannedPhoto, record: Record) -> None:
        if self._overwrite or not photo.output.exists():
            return
        earlier = self._records.get(record["output"])
        if earlier is None:
            cause = f"its output {printable(photo.output)} exists and was not made by dehaze"
        elif all(earlier[key] != record[key] for key in ("input", "sha256")):
            cause = f"its output {printable(photo.output)} was made from another photo"
        else:
            return
        raise PhotoError(photo.source, cause, "name another folder with -o, or add --overwrite")

    def _append(self, record: Record) -> None:
        line = json.dumps(record) + "\n"
        with open(self._journal, "ab+") as file:
            # A line that a killed run left unfinished must not swallow this one.
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = "\n" + line
            file.write(line.encode("ascii"))
            file.flush()
            os.fsync(file.fileno())

    def _read_journal(self) -> dict[str, Record]:
        records: dict[str, Record] = {}
        if not self._journal.is_file():
            return records
        for line in self._journal.read_bytes().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if isinstance(record, dict) and record.keys() >= _RECORD_KEYS:
                records[record["output"]] = record
            else:
                logger.debug("%s: a damaged line is passed over", self._journal)
        return records


def _named(source: Path, error: Exception) -> PhotoError:
    if isinstance(error, PhotoError):
        return error
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return PhotoError(source, "does not fit in memory", "try --device cpu, or a smaller photo")
    if isinstance(error, OSError):
        cause = f"cannot be read or written ({error.strerror or error})"
        return PhotoError(source, cause, "check permissions and the room on the disk")
    first_line = (str(error).splitlines() or [""])[0]
    cause = f"cannot be dehazed ({type(error).__name__}: {first_line})"
    return PhotoError(source, cause, "the other photos are not affected; dehaze doctor may help")


def _has_photo_name(path: Path) -> bool:
    return path.suffix.lower() in PHOTO_SUFFIXES | UNSUPPORTED_SUFFIXES and not (
        path.name.startswith(_ATTRIBUTE_PREFIX)
    )


def _prefixes(roots: Sequence[_Root]) -> list[str]:
    """For each root the folder name that keeps it apart from the others, or nothing."""
    owners: dict[str, set[int]] = defaultdict(set)
    for index, root in enumerate(roots):
        for below in root.members:
            owners[os.path.normcase(below)].add(index)
    meeting: set[int] = set()
    for indices in owners.values():
        if len(indices) > 1:
            meeting |= indices
    return [root.label if index in meeting else "" for index, root in enumerate(roots)]


def _check_claims(photos: Sequence[PlannedPhoto], beside: Sequence[str]) -> None:
    sources = {_place(photo.source): photo.source for photo in photos}
    sources |= {_real(photo.source): photo.source for photo in photos}
    claims: dict[str, Path] = {}
    for photo in photos:
        for ending in ("", *beside):
            output = photo.output.with_name(photo.output.name + ending)
            place = _place(output)
            if place in sources:
                raise PlanError(
                    f"{printable(photo.source)}: its output would replace the input "
                    f"{printable(sources[place])}; name another folder with -o"
                )
            other = claims.setdefault(place, photo.source)
            if other is not photo.source:
                raise PlanError(
                    f"{printable(photo.source)}: would be written to the same file as "
                    f"{printable(other)}, {printable(output)}; do them in two runs"
                )


def _real(path: Path) -> str:
    return os.path.normcase(os.path.realpath(path))


def _place(path: Path) -> str:
    """Where a name lies: links to folders resolved, the name itself not."""
    return os.path.normcase(os.path.join(os.path.realpath(path.parent), path.name))


def _relative(path: Path, folder: Path) -> str:
    """The path as seen from the folder, so that both may move together."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        # Another drive has no relative path.
        return path.absolute().as_posix()


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
