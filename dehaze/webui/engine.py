"""One model for all requests: a bounded queue, and threads that take the work from it."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, TypeVar

from dehaze.errors import DehazeError
from dehaze.pipelines.dehaze import DehazePipeline

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class BusyError(DehazeError, RuntimeError):
    """The queue is full; try again in a while."""


class ClosedError(DehazeError, RuntimeError):
    """The server is being stopped: nothing new is begun."""


class Urgency(IntEnum):
    """What is done first."""

    UNDER_THE_HAND = 0
    IN_A_ROW = 1
    STOP = 2


@dataclass(frozen=True, order=True)
class _Job:
    urgency: Urgency
    number: int
    work: Callable[[DehazePipeline], Any] | None = field(compare=False)
    future: Future[Any] = field(compare=False)


class Engine:
    """Runs work on one pipeline, most urgent first, then in the order of arrival.

    Args:
        pipeline: shared by all threads.
        threads: how many pieces of work are done at a time.
        waiting: how many may wait; more are refused.
    """

    def __init__(self, pipeline: DehazePipeline, *, threads: int = 1, waiting: int = 32) -> None:
        self._pipeline = pipeline
        self._limit = waiting
        self._waiting = 0
        self._running = 0
        self._closed = False
        # Reentrant, since closing cancels what waits.
        self._state = threading.RLock()
        self._numbers = itertools.count()
        self._jobs: queue.PriorityQueue[_Job] = queue.PriorityQueue()
        self._threads = [
            threading.Thread(target=self._serve, name=f"engine-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """How many pieces of work wait for a thread."""
        return self._waiting

    @property
    def running(self) -> int:
        """How many are being done."""
        return self._running

    def submit(
        self,
        work: Callable[[DehazePipeline], Result],
        urgency: Urgency = Urgency.IN_A_ROW,
    ) -> Future[Result]:
        """Hand in work; a cancelled future waits no more, and is passed over.

        Raises:
            BusyError: as much waits already as may.
            ClosedError: the engine is closed.
        """
        future: Future[Result] = Future()
        with self._state:
            if self._closed:
                raise ClosedError("the server is being stopped; try again later")
            if self._waiting >= self._limit:
                raise BusyError(
                    f"{self._waiting} photos are waiting, which is as many as may; try again soon"
                )
            self._waiting += 1
            future.add_done_callback(self._give_up)
            self._jobs.put(_Job(urgency, next(self._numbers), work, future))
        return future

    def close(self) -> None:
        """Refuse new work, drop what waits, and return once what was begun is done."""
        with self._state:
            if self._closed:
                return
            self._closed = True
            while True:
                try:
                    self._jobs.get_nowait().future.cancel()
                except queue.Empty:
                    break
            for _ in self._threads:
                self._jobs.put(_Job(Urgency.STOP, next(self._numbers), None, Future()))
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while (job := self._jobs.get()).work is not None:
            with self._state:
                begun = job.future.set_running_or_notify_cancel()
                self._waiting -= begun
                self._running += begun
            if begun:
                try:
                    _complete(job.future, job.work, self._pipeline)
                finally:
                    with self._state:
                        self._running -= 1
            # The result must not stay in memory while this thread waits for the next job.
            del job

    def _give_up(self, future: Future[Any]) -> None:
        if future.cancelled():
            with self._state:
                self._waiting -= 1


def _complete(
    future: Future[Any], work: Callable[[DehazePipeline], Any], pipeline: DehazePipeline
) -> None:
    try:
        result = work(pipeline)
    except BaseException as error:
        # The future's waiter gets the error.
        logger.debug("work failed", exc_info=error)
        future.set_exception(error)
    else:
        future.set_result(result)
