"""Runs a job in this process: while some photos are in the network, their neighbours are read and
written, and photos that can share the network's evaluations are brought together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from dehaze.batch.task import (
    Opened,
    Processed,
    Report,
    Task,
    Worker,
    open_task,
    process_tasks,
    save_task,
)
from dehaze.photos import PhotoFile

# Megapixels decoded at a time; a larger photo waits until it is the only one. A megapixel takes
# 12 MB as float32 RGB.
MEGAPIXELS_AHEAD = 64.0

# So many batches' worth of photos wait for others of their kind; beyond that, the kind that has
# waited longest goes on as it is.
_BATCHES_GATHERED = 2


class _Room:
    """Bounds the megapixels that are decoded at a time, so that memory is flat."""

    def __init__(self, megapixels: float) -> None:
        self._limit = megapixels
        self._taken: list[float] = []
        self._asked: float | None = None
        self._changed = threading.Condition()
        self._closed = False

    def take(self, file: PhotoFile) -> None:
        """Wait until there is room; a file larger than the limit has it once it is alone."""
        with self._changed:
            self._asked = file.megapixels
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._is_lacking())
            self._asked = None
            self._taken.append(file.megapixels)

    def _is_lacking(self) -> bool:
        """Whether somebody asks for room that there is not."""
        if self._asked is None or self._closed or not self._taken:
            return False
        return sum(self._taken) + self._asked > self._limit

    def give_back(self, megapixels: float) -> None:
        with self._changed:
            self._taken.remove(megapixels)
            self._changed.notify_all()

    def wait_for(self, read: Future[Any], writing: Iterable[Future[Any]]) -> bool:
        """Wait until a photo is read, or waits for room that no write will give back.

        Args:
            read: done once the photo is read.
            writing: what is being written.

        Returns:
            whether it is read.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    read.done() or (self._is_lacking() and all(write.done() for write in writing))
                )
            )
        return read.done()

    def look_again(self, _: Future[Any]) -> None:
        """To be called when a photo has been read or written."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Let everything in, so that nobody waits for ever."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


_Held = tuple[Opened, float]
"""A photo in memory, and the megapixels that it takes of the room."""


class _Gathered:
    """Photos that wait for others of their kind."""

    def __init__(self, worker: Worker[Any]) -> None:
        self._worker = worker
        # By the age of each one's oldest photo.
        self._kinds: dict[Hashable, list[_Held]] = {}

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def add(self, held: _Held) -> list[_Held]:
        """Take one more: a batch that is due with it, or nothing."""
        kind = self._worker.kind(held[0].photo)
        alike = self._kinds.setdefault(kind, [])
        alike.append(held)
        if len(alike) >= self._worker.batch_size:
            return self._kinds.pop(kind)
        waiting = sum(map(len, self._kinds.values()))
        return self.oldest() if waiting >= _BATCHES_GATHERED * self._worker.batch_size else []

    def oldest(self) -> list[_Held]:
        """Give up those that have waited longest, however few."""
        return self._kinds.pop(next(iter(self._kinds)))


@dataclass(frozen=True)
class LocalExecutor:
    """Runs tasks batch after batch in the network, and overlaps reading and writing with it.

    As many photos as make a batch are read ahead of the one in the network, and left to be written
    behind it. Nothing waits for others of its kind that may not come: where the memory's room is
    needed, or no task is left, a batch is as large as it is.

    Attributes:
        worker: makes the results.
    """

    worker: Worker[Any]

    def run(self, tasks: Iterable[Task], report: Callable[[Report], None]) -> None:
        """See ``dehaze.batch.Executor``."""
        worker = self.worker
        room = _Room(MEGAPIXELS_AHEAD)
        waiting = iter(tasks)
        reading: deque[Future[tuple[Opened | Report, float]]] = deque()
        gathered = _Gathered(worker)
        writing: deque[Future[Report]] = deque()

        def read(task: Task) -> tuple[Opened | Report, float]:
            taken = 0.0

            def admit(file: PhotoFile) -> None:
                nonlocal taken
                room.take(file)
                taken = file.megapixels

            return open_task(task, admit), taken

        def write(processed: Processed, taken: float) -> Report:
            try:
                return save_task(processed, worker)
            finally:
                room.give_back(taken)

        with ThreadPoolExecutor(1, "read") as readers, ThreadPoolExecutor(1, "write") as writers:

            def read_on() -> None:
                for task in islice(waiting, worker.batch_size - len(reading)):
                    future = readers.submit(read, task)
                    future.add_done_callback(room.look_again)
                    reading.append(future)

            def next_batch() -> list[_Held]:
                if not reading or (gathered and not room.wait_for(reading[0], writing)):
                    return gathered.oldest()
                opened, taken = reading.popleft().result()
                read_on()
                if not isinstance(opened, Report):
                    return gathered.add((opened, taken))
                if taken:
                    room.give_back(taken)
                report(opened)
                return []

            def work_on(batch: list[_Held]) -> None:
                processed = process_tasks([opened for opened, _ in batch], worker)
                for one, (_, taken) in zip(processed, batch, strict=True):
                    if isinstance(one, Report):
                        room.give_back(taken)
                        report(one)
                    else:
                        future = writers.submit(write, one, taken)
                        future.add_done_callback(room.look_again)
                        writing.append(future)

            try:
                read_on()
                while reading or gathered:
                    batch = next_batch()
                    if batch:
                        work_on(batch)
                    # What is not needed any more must not stay in memory while the next is read.
                    del batch
                    while writing and (len(writing) > worker.batch_size or writing[0].done()):
                        # Taken off once it is there: an interrupted wait must not lose it.
                        written = writing[0].result()
                        writing.popleft()
                        report(written)
            finally:
                for unread in reading:
                    unread.cancel()
                room.close()
                for unwritten in writing:
                    report(unwritten.result())
