"""One photo on its way through a job: the object that every step takes and hands on.

A photo is opened (read, hashed, decoded), worked on (the network, alone or with others), and saved
(encoded, written). An executor may overlap these steps, or send the photo elsewhere for them. A
step that fails says so in the item; nothing here raises for a photo's sake.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from dehaze.batch.effect import Array, Effect, measure
from dehaze.digests import digest_of_file, stamp_of_file
from dehaze.errors import first_line, reason
from dehaze.photos import MAX_MEGAPIXELS, Photo, PhotoError, ResultFile, open_photo, write_photo

Status = Literal["planned", "done", "kept", "failed"]

# How often a photo whose process dies is done again; after that its death is not chance.
RETRIES = 2

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Item:
    """One photo, the path of its result, and its outcome so far.

    Attributes:
        source: the photo, by the path that it was named by; or a folder that cannot be listed.
        folder: the output folder; nothing is written outside of it.
        name: path of the result below the output folder.
        max_megapixels: a larger photo fails.
        result_file: how its result's file differs from its own.
        beside: what is appended to the result's name for the files written next to it.
        status: "planned", then "done" now, "kept" from an earlier run, or "failed".
        error: why it failed, or None.
        size: of the photo's file when its turn came, bytes.
        mtime_ns: when that file was last changed, nanoseconds since the epoch.
        sha256: of that file's content, None where it could not be read.
        megapixels: of the photo, 0 until it is opened.
        photo: its pixels, from opening to saving.
        result: what the worker made of it, from the network to saving.
        files: SHA-256 of each file written, by its path below the output folder.
        seconds: wall time of its steps, without the time it waited between them; what a batch took
            is shared evenly.
        evaluations: of the network.
        residual: the worst residual of its inversion, NaN where there is none.
        effect: the difference of its result, and remarks on it.
        notes: what could not come back as it was, or went another way than asked for.
    """

    source: Path
    folder: Path
    name: Path
    max_megapixels: float = MAX_MEGAPIXELS
    result_file: ResultFile = field(default_factory=ResultFile)
    beside: tuple[str, ...] = ()
    status: Status = "planned"
    error: PhotoError | None = None
    size: int | None = None
    mtime_ns: int | None = None
    sha256: str | None = None
    megapixels: float = 0.0
    photo: Photo | None = None
    result: Any = None
    files: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    evaluations: int = 0
    residual: float = math.nan
    effect: Effect = field(default_factory=Effect)
    notes: tuple[str, ...] = ()

    @property
    def output(self) -> Path:
        """The path of the result."""
        return self.folder / self.name

    @property
    def beside_output(self) -> list[Path]:
        """The paths of the files written next to the result."""
        return [self.output.with_name(self.output.name + ending) for ending in self.beside]

    def decoded(self) -> Photo:
        """The photo of an opened item.

        Raises:
            ValueError: the item is not open.
        """
        if self.photo is None:
            raise ValueError(f"{self.source} is not open")
        return self.photo

    def fail(self, error: Exception) -> None:
        """Record the error that ends the item."""
        logger.debug("%s failed", self.source, exc_info=error)
        self.status, self.error = "failed", named(self.source, error)
        self.photo = self.result = None

    def sendable(self) -> Item:
        """A copy for another process, where the working folder may be another one."""
        return replace(
            self,
            source=Path(os.path.abspath(self.source)),
            folder=Path(os.path.abspath(self.folder)),
        )

    def take(self, sent: Item) -> None:
        """Take over what another process did with the copy that it was sent."""
        vars(self).update(vars(sent) | {"source": self.source, "folder": self.folder})
        if self.error is not None:
            # The error names the photo as the user did, not by its absolute path.
            self.error = PhotoError(self.source, self.error.cause, self.error.cure)


class Worker(Protocol):
    """Makes results of photos, and writes them."""

    @property
    def batch_size(self) -> int:
        """How many photos of one kind ``process`` should get at a time."""

    @property
    def parallel(self) -> bool:
        """Whether a photo takes one core, so that several processes gain by it."""

    def kind(self, photo: Photo) -> Any:
        """The kind of a photo, hashable; photos of one kind can be processed together."""

    def process(self, items: Sequence[Item]) -> None:
        """Make the results of opened items of one kind: each has one, or has failed.

        An error that is raised fails all of them.
        """

    def save(self, item: Item) -> Sequence[Path]:
        """Write an item's result, and any other files beside it: all files written.

        It may be called while ``process`` runs in another thread.
        """

    def stop(self) -> None:
        """Let every running ``process`` raise ``KeyboardInterrupt`` soon; none follows."""


class Work(Protocol):
    """The work on each photo, small enough to be sent to another process."""

    def start(self) -> Worker:
        """A worker, ready: whatever it needs is loaded."""

    def on_cpu(self) -> Work:
        """The same work, to be started where there may be no accelerator."""

    def photos_at_once(self, *, accelerated: bool) -> int:
        """The ``batch_size`` of a worker that has an accelerator, or has none."""

    @property
    def may_be_parallel(self) -> bool:
        """Whether its worker is ``parallel`` unless it finds an accelerator; nothing is loaded."""

    def fingerprint(self) -> str:
        """One hash of the files beside dehaze's code that decide its results; nothing is loaded."""


class Executor(Protocol):
    """Takes items through their steps, here or elsewhere."""

    def run(self, items: Iterator[Item], report: Callable[[Item], None]) -> None:
        """Do every item, and report each as it ends, in any order, from the calling thread.

        ``KeyboardInterrupt`` ends the run: what is being written is finished and reported, and all
        else is dropped.
        """

    def close(self) -> None:
        """End what was started for a run that does not come."""


def open_item(item: Item, admit: Callable[[Item], None] | None = None) -> None:
    """Read and decode an item's photo; an error fails the item and is not raised.

    Args:
        item: the item.
        admit: called once the photo's size is known, before it is decoded; it may wait.
    """
    with step_of(item):
        _refuse_escape(item)
        _refuse_full_disk(item)
        before_read = stamp_of_file(item.source)
        file = open_photo(item.source, max_megapixels=item.max_megapixels)
        if stamp_of_file(item.source) != before_read:
            raise PhotoError(
                item.source,
                "changed while it was read",
                "run it again once it is written, or add --watch",
            )
        # The journal's size and time are those of the file that was read.
        item.size, item.mtime_ns = before_read
        item.megapixels = file.megapixels
        if admit is not None:
            before = time.perf_counter()
            admit(item)
            item.seconds -= time.perf_counter() - before
        item.sha256 = hashlib.sha256(file.data).hexdigest()
        item.photo = item.result_file.applied_to(file.decode(), item.source)


def process_items(items: Sequence[Item], worker: Worker) -> None:
    """Make the results of opened items of one kind."""
    started = time.perf_counter()
    try:
        worker.process(items)
    except Exception as error:  # noqa: BLE001
        for item in items:
            item.fail(error)
    share = (time.perf_counter() - started) / len(items)
    for item in items:
        item.seconds += share


def save_item(item: Item, worker: Worker) -> None:
    """Write an item's result."""
    with step_of(item):
        item.output.parent.mkdir(parents=True, exist_ok=True)
        # Checked again, since a link may have appeared since the photo was opened.
        _refuse_escape(item)
        written = worker.save(item)
        item.files = {
            path.relative_to(item.folder).as_posix(): digest_of_file(path) for path in written
        }
        item.notes = (*item.decoded().notes, *item.notes)
        item.status = "done"
    item.photo = item.result = None


def write_result(item: Item, pixels: Array, *, strength: float = 1.0) -> None:
    """Write an item's picture in its file's format, and measure the effect.

    Args:
        item: opened.
        pixels: float32 (H, W, 3) in [0, 1].
        strength: how much of the haze was to go.
    """
    photo = item.decoded()
    write_photo(item.output, pixels, like=photo)
    item.effect = measure(photo.pixels, pixels, strength)


@contextmanager
def step_of(item: Item) -> Iterator[None]:
    """Time a step of an item, and let an error fail the item alone."""
    started = time.perf_counter()
    try:
        yield
    except Exception as error:  # noqa: BLE001
        item.fail(error)
    finally:
        item.seconds += time.perf_counter() - started


def named(source: Path, error: Exception) -> PhotoError:
    """A ``PhotoError`` for any error: it names the photo, the cause and the cure."""
    if isinstance(error, PhotoError):
        return error
    if is_out_of_memory(error):
        return PhotoError(source, "does not fit in memory", "try --device cpu, or a smaller photo")
    if isinstance(error, OSError):
        cause = f"cannot be read or written ({reason(error)})"
        return PhotoError(source, cause, "check permissions and the room on the disk")
    cause = f"cannot be dehazed ({type(error).__name__}: {first_line(error)})"
    return PhotoError(source, cause, "the other photos are not affected; dehaze doctor may help")


def worker_died(source: Path, deaths: int, cure: str) -> PhotoError:
    """The error of a photo whose process died again and again."""
    return PhotoError(
        source, f"its worker died on it {deaths} times", f"look for want of memory, or {cure}"
    )


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory, the machine's or the accelerator's, has run out."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def leads_out(folder: Path, below: Path) -> bool:
    """Whether a folder whose path lies below another's is outside of it, by a link."""
    real = os.path.realpath(folder)
    return os.path.commonpath([real, os.path.realpath(below)]) != real


def _refuse_escape(item: Item) -> None:
    if leads_out(item.folder, item.output.parent):
        raise PhotoError(
            item.source,
            "its output would leave the output folder through a link",
            "remove the link from the output folder, or name another folder with -o",
        )


def _refuse_full_disk(item: Item) -> None:
    """Refuses a full disk before the network runs."""
    needed = item.source.stat().st_size * item.result_file.growth(item.source)
    if shutil.disk_usage(item.folder).free < needed:
        raise PhotoError(
            item.source,
            "its output does not fit on the disk",
            "make room and run it again to continue",
        )
