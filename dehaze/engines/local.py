"""Runs a job in this process: while one photo is in the network, its neighbours are read and
written."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
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
    process_task,
    save_task,
)
from dehaze.images import PhotoFile

# Megapixels decoded at a time; a larger photo waits until it is the only one. A megapixel takes
# 12 MB as float32 RGB.
MEGAPIXELS_AHEAD = 64.0


class _Room:
    """Bounds the megapixels that are decoded at a time, so that memory is flat."""

    def __init__(self, megapixels: float) -> None:
        self._limit = megapixels
        self._taken: list[float] = []
        self._changed = threading.Condition()
        self._closed = False

    def take(self, file: PhotoFile) -> None:
        """Wait until there is room; a file larger than the limit has it once it is alone."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._closed
                    or not self._taken
                    or sum(self._taken) + file.megapixels <= self._limit
                )
            )
            self._taken.append(file.megapixels)

    def give_back(self, megapixels: float) -> None:
        with self._changed:
            self._taken.remove(megapixels)
            self._changed.notify_all()

    def close(self) -> None:
        """Let everything in, so that nobody waits for ever."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


@dataclass(frozen=True)
class LocalExecutor:
    """Runs tasks one after the other in the network, and overlaps reading and writing with it.

    Attributes:
        worker: makes the results.
        ahead: photos read ahead of the one in the network, and left to be written behind it.
    """

    worker: Worker[Any]
    ahead: int = 1

    def run(self, tasks: Iterable[Task], report: Callable[[Report], None]) -> None:
        """See ``dehaze.batch.Executor``."""
        worker = self.worker
        room = _Room(MEGAPIXELS_AHEAD)
        waiting = iter(tasks)
        reading: deque[Future[tuple[Opened | Report, float]]] = deque()
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
                for task in islice(waiting, self.ahead - len(reading)):
                    reading.append(readers.submit(read, task))

            try:
                read_on()
                while reading:
                    opened, taken = reading.popleft().result()
                    read_on()
                    processed = (
                        opened if isinstance(opened, Report) else process_task(opened, worker)
                    )
                    # What is not needed any more must not stay in memory while the next is read.
                    del opened
                    if isinstance(processed, Report):
                        if taken:
                            room.give_back(taken)
                        report(processed)
                    else:
                        writing.append(writers.submit(write, processed, taken))
                    del processed
                    while writing and (len(writing) > self.ahead or writing[0].done()):
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
