"""One photo's way through a job, in three steps that an executor may overlap or send elsewhere.

A photo is opened (read, hashed, decoded), worked on (the network, alone or with others), and saved
(encoded, written). A step that fails ends in a report that says why; nothing here raises for a
photo's sake.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from dehaze.batch.journal import digest
from dehaze.photos import Photo, PhotoError, PhotoFile, open_photo

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """One photo to do.

    Attributes:
        source: the photo, an absolute path.
        output: where the result goes, an absolute path.
        folder: the output folder, absolute; nothing is written outside of it.
        max_megapixels: a larger photo fails.
    """

    source: Path
    output: Path
    folder: Path
    max_megapixels: float


@dataclass(frozen=True)
class Saved:
    """What was written for one photo.

    Attributes:
        files: every file, the photo among them.
        nfe: network evaluations spent on it.
        residual: the worst residual of its inversion, NaN where there is none.
        notes: one sentence for each thing that went another way than asked for.
    """

    files: tuple[Path, ...]
    nfe: int
    residual: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """What became of a task.

    Attributes:
        task: the task.
        error: why it failed, or None.
        sha256: of the photo's file, None where it could not be read.
        files: SHA-256 of each file written, by its path.
        seconds: wall time of its three steps, without the time it waited between them; what a
            batch took is shared evenly.
        nfe: network evaluations.
        residual: the worst residual of its inversion, NaN where there is none.
        notes: what could not come back as it was, or went another way than asked for.
    """

    task: Task
    error: PhotoError | None = None
    sha256: str | None = None
    files: dict[Path, str] = field(default_factory=dict)
    seconds: float = 0.0
    nfe: int = 0
    residual: float = float("nan")
    notes: tuple[str, ...] = ()


class Worker(Protocol[Result]):
    """Makes results of photos, and writes them."""

    @property
    def batch_size(self) -> int:
        """How many photos of one kind ``process`` is best given at a time."""

    def kind(self, photo: Photo) -> Hashable:
        """What photos must share to be processed together."""

    def process(self, photos: Sequence[Photo]) -> Sequence[Result | Exception]:
        """The results of photos of one kind, an error in the place of one that has none.

        An error that is raised instead fails all of them.
        """

    def save(self, output: Path, photo: Photo, result: Result) -> Saved:
        """Write a result, the photo at ``output`` and any other files beside it."""


class Work(Protocol):
    """What is to be done to each photo: small, so that it can be sent to another process."""

    def start(self) -> Worker[Any]:
        """A worker, ready: whatever it needs is loaded."""

    def photos_at_once(self, *, accelerated: bool) -> int:
        """The ``batch_size`` of a worker that has an accelerator, or has none."""


class Executor(Protocol):
    """Runs tasks, here or elsewhere."""

    def run(self, tasks: Iterable[Task], report: Callable[[Report], None]) -> None:
        """Run every task, and report each as it ends, in any order, from the calling thread.

        ``KeyboardInterrupt`` ends the run: what is being written is finished and reported, what
        has not come so far is dropped.
        """


@dataclass(frozen=True)
class Opened:
    """A photo decoded, ready for the network."""

    task: Task
    photo: Photo
    sha256: str
    seconds: float


@dataclass(frozen=True)
class Processed(Generic[Result]):
    """A result, ready to be written."""

    opened: Opened
    result: Result
    seconds: float


def open_task(task: Task, admit: Callable[[PhotoFile], None] | None = None) -> Opened | Report:
    """Read and decode a task's photo.

    Args:
        task: the task.
        admit: called once the photo's size is known, before it is decoded; it may wait.
    """
    started = time.perf_counter()
    waited = 0.0
    try:
        _refuse_escape(task)
        _refuse_full_disk(task)
        file = open_photo(task.source, max_megapixels=task.max_megapixels)
        if admit is not None:
            before = time.perf_counter()
            admit(file)
            waited = time.perf_counter() - before
        sha256 = hashlib.sha256(file.data).hexdigest()
        photo = file.decode()
    except Exception as error:  # noqa: BLE001
        return failed(task, error, started)
    return Opened(task, photo, sha256, time.perf_counter() - started - waited)


def process_tasks(
    opened: Sequence[Opened], worker: Worker[Result]
) -> list[Processed[Result] | Report]:
    """Make the results of opened photos of one kind, in this order."""
    started = time.perf_counter()
    results: Sequence[Result | Exception]
    try:
        results = worker.process([one.photo for one in opened])
    except Exception as error:  # noqa: BLE001
        results = [error] * len(opened)
    share = (time.perf_counter() - started) / len(opened)
    return [
        failed(one.task, result, time.perf_counter() - one.seconds - share)
        if isinstance(result, Exception)
        else Processed(one, result, one.seconds + share)
        for one, result in zip(opened, results, strict=True)
    ]


def save_task(processed: Processed[Result], worker: Worker[Result]) -> Report:
    """Write a result, and say what was written."""
    started = time.perf_counter()
    opened, task = processed.opened, processed.opened.task
    try:
        task.output.parent.mkdir(parents=True, exist_ok=True)
        # Once more: a link may have come since the photo was opened.
        _refuse_escape(task)
        saved = worker.save(task.output, opened.photo, processed.result)
        files = {path: digest(path) for path in saved.files}
    except Exception as error:  # noqa: BLE001
        return failed(task, error, started - processed.seconds)
    return Report(
        task,
        sha256=opened.sha256,
        files=files,
        seconds=processed.seconds + time.perf_counter() - started,
        nfe=saved.nfe,
        residual=saved.residual,
        notes=(*opened.photo.notes, *saved.notes),
    )


def failed(task: Task, error: Exception, started: float) -> Report:
    """The report of a task that an error ended; ``started`` by ``time.perf_counter``."""
    logger.debug("%s failed", task.source, exc_info=error)
    return Report(task, error=named(task.source, error), seconds=time.perf_counter() - started)


def named(source: Path, error: Exception) -> PhotoError:
    """Any error as one that names the photo, the cause and the cure."""
    if isinstance(error, PhotoError):
        return error
    if is_out_of_memory(error):
        return PhotoError(source, "does not fit in memory", "try --device cpu, or a smaller photo")
    if isinstance(error, OSError):
        cause = f"cannot be read or written ({error.strerror or error})"
        return PhotoError(source, cause, "check permissions and the room on the disk")
    first_line = (str(error).splitlines() or [""])[0]
    cause = f"cannot be dehazed ({type(error).__name__}: {first_line})"
    return PhotoError(source, cause, "the other photos are not affected; dehaze doctor may help")


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory, the machine's or the accelerator's, has run out."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _refuse_escape(task: Task) -> None:
    folder = os.path.realpath(task.folder)
    parent = os.path.realpath(task.output.parent)
    if os.path.commonpath([folder, parent]) != folder:
        raise PhotoError(
            task.source,
            "its output would leave the output folder through a link",
            "remove the link from the output folder, or name another folder with -o",
        )


def _refuse_full_disk(task: Task) -> None:
    """A full disk is better found before the network runs than after."""
    if shutil.disk_usage(task.folder).free < task.source.stat().st_size:
        raise PhotoError(
            task.source,
            "its output does not fit on the disk",
            "make room and run it again to continue",
        )
