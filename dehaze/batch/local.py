"""Runs a job on this machine: one process for each core, the first of them this one.

In this process, reading and writing go on beside the network, and photos that can share the
network's evaluations are brought together.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import chain, islice

from dehaze.batch.item import Item, Work, Worker, open_item, process_items, save_item, step_of
from dehaze.batch.machine import cores, opencv_on_one_core
from dehaze.batch.memory import megapixels_for, workers_that_fit
from dehaze.batch.process import DeadProcessError, RemoteWorker
from dehaze.batch.sent import SentWork

logger = logging.getLogger(__name__)

# A process is started for this number of photos, or for each photo of this many bytes; with less to
# do, it would take longer to load than to work.
PHOTOS_A_PROCESS = 4
BYTES_A_PROCESS = 2e6

# Photos that a process is given at a time: one that it does, and one that it does next.
_GIVEN = 2

# How many batches' worth of photos wait for others of their kind. Beyond that, the kind that has
# waited longest is processed as it is.
_BATCHES_GATHERED = 2

# Seconds after which a wait is interrupted, since Windows lets no Ctrl-C through meanwhile.
_SECONDS_OF_WAITING = 0.5


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
        # Kinds in the order of their oldest photo.
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
        """Return the batch that has waited longest, however small it is."""
        return self._kinds.pop(next(iter(self._kinds)))


@dataclass(frozen=True)
class LocalExecutor:
    """Takes items through their steps here: reading, ``Worker.process`` and writing overlap.

    One photo is read ahead, and one waits to be written. No photo waits for others of its kind that
    may not come: where memory is needed, or no item is left, a batch may be small.

    Where the worker is ``parallel``, processes of their own do other items, one at a time each, as
    soon as they are ready. This process does items all the while, so that few items take no longer.

    Attributes:
        worker: makes the results here.
        work: by which other processes make them; None for this process alone.
        workers: how many items are done at a time, at most; None for one a core, as far as the
            memory goes. Fewer or smaller items than make ``processes_for`` them are done by fewer.
        megapixels: how many may be in memory at a time; None for ``megapixels_for`` the workers.
        started: processes that load for the next run.
        files: the work's ``fingerprint``, where it is known.
    """

    worker: Worker
    work: Work | None = None
    workers: int | None = None
    megapixels: float | None = None
    started: list[RemoteWorker] = field(default_factory=list)
    files: str | None = None

    @classmethod
    def load(
        cls,
        work: Work,
        workers: int | None = None,
        sizes: Sequence[int] = (),
        files: str | None = None,
    ) -> LocalExecutor:
        """Load the worker of this process, and at the same time those of others.

        Args:
            work: by which every process starts its worker; errors are those of its ``start`` here.
            workers: as of the executor.
            sizes: of the photos' files that are likely to be done, bytes.
            files: as of the executor.
        """
        others = processes_for(sizes, _most(workers) - 1) if work.may_be_parallel else 0
        started = _started(work, others, files)
        try:
            executor = cls(work.start(), work, workers, started=started, files=files)
        except BaseException:
            _close(started)
            raise
        if not executor.worker.parallel:
            executor.close()
        return executor

    def close(self) -> None:
        """See ``dehaze.batch.Executor``."""
        _close(self.started)

    def run(self, items: Iterable[Item], report: Callable[[Item], None]) -> None:
        """See ``dehaze.batch.Executor``."""
        items = iter(items)
        parallel = self.work is not None and self.worker.parallel
        most = _most(self.workers) - 1 if parallel else 0
        # This number of items keeps all processes busy, however small they are.
        first = list(islice(items, most * PHOTOS_A_PROCESS + 1)) if most else []
        others = processes_for([item.size or 0 for item in first], most)
        room = _Room(megapixels_for(1 + others) if self.megapixels is None else self.megapixels)
        with (
            ThreadPoolExecutor(1, "read") as reader,
            ThreadPoolExecutor(1, "work") as working,
            ThreadPoolExecutor(1, "write") as writer,
            ExitStack() as remote,
        ):
            run = _Run(
                self.worker, chain(first, items), report, _Threads(reader, working, writer), room
            )
            if others:
                remote.enter_context(opencv_on_one_core())
            for other in self._processes(others):
                run.add(remote.enter_context(closing(other)))
            run.run()

    def _processes(self, count: int) -> list[RemoteWorker]:
        """``count`` processes for one run: those that have been started, and new ones."""
        taken = self.started[:count]
        del self.started[:count]
        self.close()
        if len(taken) < count:
            assert self.work is not None
            taken += _started(self.work, count - len(taken), self.files)
        return taken


def processes_for(sizes: Sequence[int], most: int) -> int:
    """How many processes beside this one, at most ``most``, photos of such files keep busy.

    Args:
        sizes: of the files, bytes.
        most: a number.
    """
    busy = sum(min(max(size / BYTES_A_PROCESS, 1 / PHOTOS_A_PROCESS), 1.0) for size in sizes)
    return max(min(int(busy), len(sizes) - 1, most), 0)


def _most(workers: int | None) -> int:
    return workers or workers_that_fit(cores())


def _started(work: Work, count: int, files: str | None) -> list[RemoteWorker]:
    if not count:
        return []
    sent = SentWork.of(work, files)
    return [RemoteWorker(sent) for _ in range(count)]


def _close(processes: list[RemoteWorker]) -> None:
    while processes:
        processes.pop().close()


@dataclass(frozen=True)
class _Threads:
    """The threads of one run."""

    read: ThreadPoolExecutor
    work: ThreadPoolExecutor
    write: ThreadPoolExecutor


class _Run:
    """One run: photos that are being read, wait for the worker, have it, or are being written."""

    def __init__(
        self,
        worker: Worker,
        waiting: Iterator[Item],
        report: Callable[[Item], None],
        threads: _Threads,
        room: _Room,
    ) -> None:
        self._worker = worker
        self._waiting = waiting
        self._report = report
        self._threads = threads
        self._room = room
        self._gathered = _Gathered(worker)
        self._due: deque[list[Item]] = deque()
        self._reading: dict[Future[None], Item] = {}
        self._working: dict[Future[None], list[Item]] = {}
        self._writing: dict[Future[None], Item] = {}
        self._starting: dict[Future[None], RemoteWorker] = {}
        self._ready: list[RemoteWorker] = []
        self._elsewhere: dict[Future[None], tuple[RemoteWorker, Item]] = {}

    def add(self, remote: RemoteWorker) -> None:
        """Let another process do items as well, once it is ready."""
        self._starting[self._room.told_of(remote.ready)] = remote

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
        for starting in _ended(self._starting):
            self._take_started(self._starting.pop(starting), starting)
        for elsewhere in _ended(self._elsewhere):
            self._take_done(*self._elsewhere.pop(elsewhere), elsewhere)
        self._work_on()
        self._read_on()
        self._hand_out()
        if self._may_be_partial():
            self._due.append(self._gathered.oldest())
            self._work_on()
        return bool(self._reading or self._working or self._writing or self._elsewhere)

    def _can_go_on(self) -> bool:
        futures = chain(
            self._reading, self._working, self._writing, self._starting, self._elsewhere
        )
        return any(future.done() for future in futures) or self._may_be_partial()

    def _may_be_partial(self) -> bool:
        """Whether photos must stop waiting for others of their kind."""
        if not self._gathered or self._due or self._working or self._writing:
            return False
        return not self._reading or self._room.is_lacking()

    def _read_on(self) -> None:
        ahead = len(self._reading) + sum(map(len, self._due))
        for item in islice(self._waiting, max(self._worker.batch_size - ahead, 0)):
            future = self._threads.read.submit(open_item, item, self._room.admit)
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
        if self._due and not self._working and len(self._writing) <= self._worker.batch_size:
            batch = self._due.popleft()
            future = self._threads.work.submit(process_items, batch, self._worker)
            self._working[self._room.told_of(future)] = batch

    def _take_result(self, batch: list[Item], worked: Future[None]) -> None:
        worked.result()
        for item in batch:
            if item.error is not None:
                self._end(item)
            else:
                future = self._threads.write.submit(self._write, item)
                self._writing[self._room.told_of(future)] = item

    def _write(self, item: Item) -> None:
        try:
            save_item(item, self._worker)
        finally:
            self._room.leave(item)

    def _end(self, item: Item) -> None:
        self._room.leave(item)
        self._report(item)

    def _take_started(self, remote: RemoteWorker, started: Future[None]) -> None:
        try:
            started.result()
        except DeadProcessError as death:
            logger.warning("a worker process %s; the job goes on with fewer", death)
        else:
            self._ready.append(remote)

    def _hand_out(self) -> None:
        """Keep each process that is ready busy."""
        for remote in self._ready:
            given = sum(other is remote for other, _ in self._elsewhere.values())
            for item in islice(self._waiting, _GIVEN - given):
                self._elsewhere[self._room.told_of(remote.do(item, self._room))] = remote, item

    def _take_done(self, remote: RemoteWorker, item: Item, done: Future[None]) -> None:
        try:
            done.result()
        except DeadProcessError as death:
            logger.warning("a worker process %s; the job goes on with fewer", death)
            self._ready = [other for other in self._ready if other is not remote]
            self._waiting = chain([item], self._waiting)
        else:
            self._report(item)

    def _break_off(self) -> None:
        """Drop photos that are not yet being written, and let the others end."""
        for future in self._reading:
            future.cancel()
        self._room.close()
        self._worker.stop()
        for remote in (*self._ready, *self._starting.values()):
            remote.stop()
        wait(self._working)
        wait(self._writing)
        wait(self._elsewhere)
        written = (item for _, item in self._elsewhere.values() if item.status == "done")
        for item in (*self._writing.values(), *written):
            self._report(item)


def _ended(futures: Iterable[Future[None]]) -> list[Future[None]]:
    """The ended futures, in the order in which they began."""
    return [future for future in futures if future.done()]
