"""Runs a job in this process: reading and writing go on beside the network.

Photos that can share the network's evaluations are brought together.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice

from dehaze.batch.item import Item, Worker, open_item, process_items, save_item, step_of
from dehaze.batch.machine import cores, memory

# Megapixels that any machine has room for, from decoding to writing. A larger photo waits until it
# is the only one.
_MEGAPIXELS = 64.0

# Share of this process's memory that several workers may take. A megapixel takes 12 MB as float32
# RGB, and at most this many bytes while its haze is removed.
_SHARE_OF_MEMORY = 0.25
_BYTES_A_MEGAPIXEL = 60e6

# How many batches' worth of photos wait for others of their kind. Beyond that, the kind that has
# waited longest is processed as it is.
_BATCHES_GATHERED = 2

# Seconds after which a wait is interrupted, since Windows lets no Ctrl-C through meanwhile.
_SECONDS_OF_WAITING = 0.5

# Larger photos are not worked on at the same time: threads of one process wait for each other when
# each takes and gives back hundreds of megabytes.
MEGAPIXELS_TOGETHER = 16.0


def megapixels_for(workers: int) -> float:
    """The megapixels that so many workers may have in memory, from decoding to writing."""
    allowed = memory()
    if allowed is None:
        return _MEGAPIXELS
    affordable = _SHARE_OF_MEMORY * allowed / _BYTES_A_MEGAPIXEL
    return max(_MEGAPIXELS, min(_MEGAPIXELS * workers, affordable))


class _Room:
    """Bounds the megapixels in memory, so that memory does not grow with the folder."""

    def __init__(self, megapixels: float) -> None:
        self._limit = megapixels
        self._inside: set[Item] = set()
        # One after the other, so that smaller photos do not overtake a large one for ever.
        self._asking: deque[Item] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def admit(self, item: Item) -> None:
        """Wait until there is room; a photo larger than the limit gets it once it is alone.

        Raises:
            CancelledError: the run has been broken off.
        """
        with self._changed:
            self._asking.append(item)
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._closed or (self._asking[0] is item and not self.is_lacking())
            )
            self._asking.remove(item)
            self._changed.notify_all()
            if self._closed:
                raise CancelledError
            self._inside.add(item)

    def is_lacking(self) -> bool:
        """Whether anybody waits for room."""
        with self._changed:
            if not self._asking or not self._inside:
                return False
            taken = sum(item.megapixels for item in self._inside)
            return taken + self._asking[0].megapixels > self._limit

    def leave(self, item: Item) -> None:
        """Give an item's room back, if it has any."""
        with self._changed:
            self._inside.discard(item)
            self._changed.notify_all()

    def wait_for(self, due: Callable[[], bool]) -> None:
        """Wait until something is due; that may depend on whether room is lacking."""
        with self._changed:
            while not self._changed.wait_for(due, _SECONDS_OF_WAITING):
                pass

    def told_of(self, future: Future[None]) -> Future[None]:
        """The future; when it ends, those who wait look again."""
        future.add_done_callback(self._look_again)
        return future

    def _look_again(self, _: Future[None]) -> None:
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Admit nothing any more."""
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
        """Take one more photo; returns a batch that is now due, or nothing."""
        kind = self._worker.kind(item.decoded())
        alike = self._kinds.setdefault(kind, [])
        alike.append(item)
        if len(alike) >= self._worker.batch_size:
            return self._kinds.pop(kind)
        waiting = sum(map(len, self._kinds.values()))
        return self.oldest() if waiting >= _BATCHES_GATHERED * self._worker.batch_size else []

    def oldest(self) -> list[Item]:
        """Return those that have waited longest, however few."""
        return self._kinds.pop(next(iter(self._kinds)))


@dataclass(frozen=True)
class LocalExecutor:
    """Takes items through their steps in threads: reading, ``Worker.process`` and writing overlap.

    OpenCV, NumPy and PyTorch compute without Python's lock, so threads share the cores. As many
    photos as the workers take are read ahead of them, and as many wait to be written. No photo
    waits for others of its kind that may not come: where memory is needed, or no item is left, a
    batch may be small.

    Attributes:
        worker: makes the results.
        workers: how many batches are made at a time, each in a thread; None for one a core where
            the worker is ``parallel``, else one.
        megapixels: how many may be in memory at a time; None for ``megapixels_for`` the workers.
    """

    worker: Worker
    workers: int | None = None
    megapixels: float | None = None

    def run(self, items: Iterable[Item], report: Callable[[Item], None]) -> None:
        """See ``dehaze.batch.Executor``."""
        workers = self.workers or (cores() if self.worker.parallel else 1)
        with (
            ThreadPoolExecutor(workers, "read") as readers,
            ThreadPoolExecutor(workers, "work") as working,
            ThreadPoolExecutor(workers, "write") as writers,
        ):
            pools = _Pools(workers, readers, working, writers)
            room = _Room(megapixels_for(workers) if self.megapixels is None else self.megapixels)
            _Run(self.worker, iter(items), report, pools, room).run()


@dataclass(frozen=True)
class _Pools:
    """The threads of one run: ``workers`` of each."""

    workers: int
    read: ThreadPoolExecutor
    work: ThreadPoolExecutor
    write: ThreadPoolExecutor


class _Run:
    """One run: photos that are being read, wait for a worker, have one, or are being written."""

    def __init__(
        self,
        worker: Worker,
        waiting: Iterator[Item],
        report: Callable[[Item], None],
        pools: _Pools,
        room: _Room,
    ) -> None:
        self._worker = worker
        self._waiting = waiting
        self._report = report
        self._pools = pools
        self._room = room
        self._most = pools.workers * worker.batch_size
        self._gathered = _Gathered(worker)
        self._due: deque[list[Item]] = deque()
        self._reading: dict[Future[None], Item] = {}
        self._working: dict[Future[None], list[Item]] = {}
        self._writing: dict[Future[None], Item] = {}

    def run(self) -> None:
        """Do every item."""
        try:
            while self._go_on():
                self._room.wait_for(self._can_go_on)
        except BaseException:
            self._break_off()
            raise

    def _go_on(self) -> bool:
        """Take every step that can be taken; returns whether any is under way."""
        for reading in _ended(self._reading):
            self._take_read(self._reading.pop(reading), reading)
        for working in _ended(self._working):
            self._take_result(self._working.pop(working), working)
        for writing in _ended(self._writing):
            item = self._writing.pop(writing)
            writing.result()
            self._report(item)
        self._work_on()
        self._read_on()
        if self._may_be_partial():
            self._due.append(self._gathered.oldest())
            self._work_on()
        return bool(self._reading or self._working or self._writing)

    def _can_go_on(self) -> bool:
        futures = (*self._reading, *self._working, *self._writing)
        return any(future.done() for future in futures) or self._may_be_partial()

    def _may_be_partial(self) -> bool:
        """Whether photos must stop waiting for others of their kind."""
        if not self._gathered or self._due or self._working or self._writing:
            return False
        return not self._reading or self._room.is_lacking()

    def _read_on(self) -> None:
        ahead = len(self._reading) + sum(map(len, self._due))
        for item in islice(self._waiting, max(self._most - ahead, 0)):
            future = self._pools.read.submit(open_item, item, self._room.admit)
            self._reading[self._room.told_of(future)] = item

    def _take_read(self, item: Item, read: Future[None]) -> None:
        read.result()
        if item.error is None:
            # A photo whose kind cannot be told fails alone.
            with step_of(item):
                batch = self._gathered.add(item)
                if batch:
                    self._due.append(batch)
        if item.error is not None:
            self._end(item)

    def _work_on(self) -> None:
        while self._due and self._can_take_more():
            batch = self._due.popleft()
            future = self._pools.work.submit(process_items, batch, self._worker)
            self._working[self._room.told_of(future)] = batch

    def _can_take_more(self) -> bool:
        if len(self._working) >= self._pools.workers or len(self._writing) > self._most:
            return False
        together = (*self._working.values(), self._due[0])
        megapixels = sum(item.megapixels for batch in together for item in batch)
        return not self._working or megapixels <= MEGAPIXELS_TOGETHER

    def _take_result(self, batch: list[Item], worked: Future[None]) -> None:
        worked.result()
        for item in batch:
            if item.error is not None:
                self._end(item)
            else:
                future = self._pools.write.submit(self._write, item)
                self._writing[self._room.told_of(future)] = item

    def _write(self, item: Item) -> None:
        try:
            save_item(item, self._worker)
        finally:
            self._room.leave(item)

    def _end(self, item: Item) -> None:
        self._room.leave(item)
        self._report(item)

    def _break_off(self) -> None:
        """Drop photos that are not yet being written, and let the others end."""
        for future in self._reading:
            future.cancel()
        self._room.close()
        self._worker.stop()
        wait(self._working)
        wait(self._writing)
        for item in self._writing.values():
            self._report(item)


def _ended(futures: Iterable[Future[None]]) -> list[Future[None]]:
    """In the order in which they began."""
    return [future for future in futures if future.done()]
