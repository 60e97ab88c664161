"""Runs a job in this process: while some photos are in the network, their neighbours are read and
written, and photos that can share the network's evaluations are brought together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from dehaze.batch.item import Item, Worker, open_item, process_items, save_item, step_of

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
        self._inside: set[Item] = set()
        self._asking: Item | None = None
        self._changed = threading.Condition()
        self._closed = False

    def admit(self, item: Item) -> None:
        """Wait until there is room; a photo larger than the limit has it once it is alone."""
        with self._changed:
            self._asking = item
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._is_lacking())
            self._asking = None
            self._inside.add(item)

    def _is_lacking(self) -> bool:
        """Whether somebody asks for room that there is not."""
        if self._asking is None or self._closed or not self._inside:
            return False
        taken = sum(item.megapixels for item in self._inside)
        return taken + self._asking.megapixels > self._limit

    def leave(self, item: Item) -> None:
        """Give an item's room back, if it has any."""
        with self._changed:
            self._inside.discard(item)
            self._changed.notify_all()

    def wait_for(self, read: Future[None], writing: Iterable[Future[None]]) -> bool:
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

    def look_again(self, _: Future[None]) -> None:
        """To be called when a photo has been read or written."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Let everything in, so that nobody waits for ever."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class _Gathered:
    """Photos that wait for others of their kind."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        # By the age of each one's oldest photo.
        self._kinds: dict[Hashable, list[Item]] = {}

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def add(self, item: Item) -> list[Item]:
        """Take one more: a batch that is due with it, or nothing."""
        kind = self._worker.kind(item.decoded())
        alike = self._kinds.setdefault(kind, [])
        alike.append(item)
        if len(alike) >= self._worker.batch_size:
            return self._kinds.pop(kind)
        waiting = sum(map(len, self._kinds.values()))
        return self.oldest() if waiting >= _BATCHES_GATHERED * self._worker.batch_size else []

    def oldest(self) -> list[Item]:
        """Give up those that have waited longest, however few."""
        return self._kinds.pop(next(iter(self._kinds)))


@dataclass(frozen=True)
class LocalExecutor:
    """Runs items batch after batch in the network, and overlaps reading and writing with it.

    As many photos as make a batch are read ahead of the one in the network, and left to be written
    behind it. Nothing waits for others of its kind that may not come: where the memory's room is
    needed, or no item is left, a batch is as large as it is.

    Attributes:
        worker: makes the results.
    """

    worker: Worker

    def run(self, items: Iterable[Item], report: Callable[[Item], None]) -> None:
        """See ``dehaze.batch.Executor``."""
        with ThreadPoolExecutor(1, "read") as readers, ThreadPoolExecutor(1, "write") as writers:
            _Run(self.worker, iter(items), report, readers, writers).run()


class _Run:
    """One run: what is being read, what waits for the network, and what is being written."""

    def __init__(
        self,
        worker: Worker,
        waiting: Iterator[Item],
        report: Callable[[Item], None],
        readers: ThreadPoolExecutor,
        writers: ThreadPoolExecutor,
    ) -> None:
        self._worker = worker
        self._waiting = waiting
        self._report = report
        self._readers = readers
        self._writers = writers
        self._room = _Room(MEGAPIXELS_AHEAD)
        self._gathered = _Gathered(worker)
        self._reading: deque[tuple[Item, Future[None]]] = deque()
        self._writing: deque[tuple[Item, Future[None]]] = deque()

    def run(self) -> None:
        """Do every item."""
        try:
            self._read_on()
            while self._reading or self._gathered:
                self._work_on(self._next_batch())
                while len(self._writing) > self._worker.batch_size or (
                    self._writing and self._writing[0][1].done()
                ):
                    self._report_written()
        finally:
            for _, future in self._reading:
                future.cancel()
            self._room.close()
            while self._writing:
                self._report_written()

    def _read_on(self) -> None:
        for item in islice(self._waiting, self._worker.batch_size - len(self._reading)):
            future = self._readers.submit(open_item, item, self._room.admit)
            future.add_done_callback(self._room.look_again)
            self._reading.append((item, future))

    def _next_batch(self) -> list[Item]:
        """The next photos for the network, or none if one was read that cannot go there yet."""
        writing = [future for _, future in self._writing]
        if not self._reading or (
            self._gathered and not self._room.wait_for(self._reading[0][1], writing)
        ):
            return self._gathered.oldest()
        item, future = self._reading[0]
        future.result()
        self._reading.popleft()
        self._read_on()
        if item.error is None:
            # A photo whose kind cannot be told fails alone.
            with step_of(item):
                return self._gathered.add(item)
        self._end(item)
        return []

    def _work_on(self, batch: list[Item]) -> None:
        if batch:
            process_items(batch, self._worker)
        for item in batch:
            if item.error is not None:
                self._end(item)
            else:
                future = self._writers.submit(self._write, item)
                future.add_done_callback(self._room.look_again)
                self._writing.append((item, future))

    def _write(self, item: Item) -> None:
        try:
            save_item(item, self._worker)
        finally:
            self._room.leave(item)

    def _report_written(self) -> None:
        item, future = self._writing[0]
        # Taken off once it is there: an interrupted wait must not lose it.
        future.result()
        self._writing.popleft()
        self._report(item)

    def _end(self, item: Item) -> None:
        self._room.leave(item)
        self._report(item)
