"""Processes of this machine that do photos beside this one, each with a worker of its own.

Threads of one process do not do: a small network is thousands of short operations, handed out one
by one under Python's lock. The two ends of a pipe are here. ``RemoteWorker`` gives a process one
photo after the other, and ``serve`` is what that process runs.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO, Protocol

import dehaze
from dehaze.batch.item import (
    RETRIES,
    Item,
    Worker,
    open_item,
    process_items,
    save_item,
    worker_died,
)
from dehaze.batch.machine import opencv_on_one_core
from dehaze.batch.sent import SentWork
from dehaze.errors import DehazeError, first_line, reason
from dehaze.photos import printable

logger = logging.getLogger(__name__)

# This process's path, on which another dehaze may come first: so this one is imported before, from
# a folder that leaves the path at once, since a checkout's also holds datasets/ and eval/.
_HOME = str(Path(dehaze.__file__).resolve().parents[1])
_PROGRAM = """
import sys
sys.path[:] = sys.argv[1:]
import dehaze
del sys.path[0]
from dehaze.batch.process import serve
serve()
"""

# Messages on the pipe besides the work and the items.
_ADMITTED, _STOP = "admitted", "stop"


class DeadProcessError(DehazeError, RuntimeError):
    """A process has ended; the message says how."""


class Room(Protocol):
    """The memory budget of photos."""

    def admit(self, item: Item) -> None:
        """Wait until there is room for an item; ``CancelledError`` when there will be none."""

    def leave(self, item: Item) -> None:
        """Give an item's room back, if it has any."""


class RemoteWorker:
    """Does items in a process of its own, from a thread of this one.

    It begins to load at once. A process that dies is started again, and its item is done again, up
    to ``RETRIES`` times.

    Args:
        work: what is done to each item; pickled.

    Attributes:
        ready: ends once the process can do items; with ``DeadProcessError`` where it cannot.
    """

    def __init__(self, work: SentWork) -> None:
        self._work = work
        self._thread = ThreadPoolExecutor(1, "remote")
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._ending = False
        self.ready: Future[None] = Future()
        # Not in the thread: it has no turn while the caller imports the network's libraries.
        try:
            self._spawn()
        except DeadProcessError as death:
            self.ready.set_exception(death)
        else:
            self.ready = self._thread.submit(self._wait_until_ready)

    def do(self, item: Item, room: Room) -> Future[None]:
        """Take an item through all of its steps, after those that came before it.

        The room bounds the photos in memory, here and there. The future ends with
        ``DeadProcessError`` where no process can be started for it, and with ``CancelledError``
        where it was stopped.
        """
        return self._thread.submit(self._do, item, room)

    def stop(self) -> None:
        """Let the process finish the file it is writing, and drop its other work."""
        with self._lock:
            self._ending = True
            if self._process is not None:
                self._process.send(_STOP)

    def close(self) -> None:
        """End the process, which has no item any more."""
        with self._lock:
            self._ending = True
            process = self._process
        if process is not None:
            process.kill()
        self._thread.shutdown(cancel_futures=True)
        if process is not None:
            process.end()

    def _spawn(self) -> None:
        with self._lock:
            if self._ending:
                raise CancelledError
            self._process = _Process(self._work)

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        try:
            self._process.wait_until_ready()
        except DeadProcessError:
            self._process = None
            raise

    def _do(self, item: Item, room: Room) -> None:
        for deaths in count():
            try:
                if self._process is None:
                    self._spawn()
                    self._wait_until_ready()
            except DeadProcessError:
                if deaths == 0:
                    raise
                item.fail(worker_died(item.source, deaths, "try fewer --workers"))
                return
            death = self._death_on(item, room)
            if death is None:
                return
            if deaths == RETRIES:
                item.fail(worker_died(item.source, deaths + 1, "try fewer --workers"))
                return
            name = printable(item.source)
            logger.warning("%s: its worker process %s; it is done again", name, death)

    def _death_on(self, item: Item, room: Room) -> DeadProcessError | None:
        """Have the process do an item; returns how it died of it, or None."""
        process = self._process
        assert process is not None
        try:
            process.do(item, room.admit)
        except DeadProcessError as death:
            with self._lock:
                self._process = None
                if self._ending:
                    raise CancelledError from death
            return death
        finally:
            room.leave(item)
        return None


class _Process:
    """One end of the pipe to another process: the end in this process."""

    def __init__(self, work: SentWork) -> None:
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", _PROGRAM, _HOME, *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | {"OPENCV_LOG_LEVEL": "SILENT"},
                # Ctrl-C on a terminal is heard here alone, which then tells the others.
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        except OSError as error:
            raise DeadProcessError(f"cannot be started ({reason(error)})") from error
        level = logging.getLogger("dehaze").getEffectiveLevel()
        self.send((level, work))

    def wait_until_ready(self) -> None:
        """Wait until the worker is loaded.

        Raises:
            DeadProcessError: it cannot be.
        """
        reason = self._receive()
        if reason is not None:
            self.end()
            raise DeadProcessError(f"cannot start ({reason})")

    def do(self, item: Item, admit: Callable[[Item], None]) -> None:
        """Have an item done.

        Args:
            item: gets all that the process did with a copy of it.
            admit: called once the photo's size is known, before it is decoded; it may wait.

        Raises:
            DeadProcessError: before the item ended.
        """
        self.send(item.sendable())
        while not isinstance(answer := self._receive(), Item):
            item.megapixels = answer
            admit(item)
            self.send(_ADMITTED)
        item.take(answer)

    def send(self, message: Any) -> None:
        """Send a message; where the process has died, the next answer says so."""
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):
            self._process.stdin.write(pickle.dumps(message))
            self._process.stdin.flush()

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    def end(self) -> str:
        """Wait for the end of the process, and say how it ended."""
        code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()
        if code >= 0:
            return f"ended with exit code {code}"
        return f"was killed by {signal.Signals(-code).name}"

    def _receive(self) -> Any:
        assert self._process.stdout is not None
        while True:
            try:
                answer = pickle.load(self._process.stdout)
            except (EOFError, OSError, pickle.UnpicklingError) as error:
                raise DeadProcessError(self.end()) from error
            if not isinstance(answer, logging.LogRecord):
                return answer
            logging.getLogger(answer.name).handle(answer)


def serve() -> None:
    """Do the items that come down the standard input, until it is closed."""
    # A terminal signals all processes of a job; the one with the journal stops the others.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # Output that libraries print must not mix with the answers.
    os.dup2(2, 1)
    with opencv_on_one_core():
        _Server(requests, answers).run()


class _Server:
    """The other end of the pipe: loads a worker, and takes items through their steps."""

    def __init__(self, requests: BinaryIO, answers: BinaryIO) -> None:
        self._requests = requests
        self._answers = answers
        self._lock = threading.Lock()
        self._messages: SimpleQueue[Any] = SimpleQueue()
        self._worker: Worker | None = None
        self._stopping = False

    def run(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()
        level, work = self._messages.get()
        log = logging.getLogger("dehaze")
        log.addHandler(_Answering(self.answer))
        log.setLevel(level)
        self._worker = worker = self._started(work)
        self.answer(None)
        while True:
            item = self._messages.get()
            if self._stopping:
                os._exit(0)
            self._do(item, worker)
            self.answer(item)

    def answer(self, message: Any) -> None:
        data = pickle.dumps(message)
        with self._lock:
            self._answers.write(data)
            self._answers.flush()

    def _started(self, work: SentWork) -> Worker:
        try:
            return work.start()
        except Exception as error:  # noqa: BLE001
            self.answer(first_line(error))
            os._exit(1)

    def _do(self, item: Item, worker: Worker) -> None:
        try:
            open_item(item, self._admit)
            if item.error is None:
                process_items([item], worker)
        except KeyboardInterrupt:
            os._exit(0)
        if item.error is None and self._stopping:
            os._exit(0)
        if item.error is None:
            save_item(item, worker)

    def _admit(self, item: Item) -> None:
        self.answer(item.megapixels)
        if self._messages.get() != _ADMITTED:
            raise KeyboardInterrupt

    def _listen(self) -> None:
        """Take messages in, so that the end of the other process is heard at any time."""
        try:
            while True:
                message = pickle.load(self._requests)
                if message == _STOP:
                    self._stop()
                self._messages.put(message)
        except EOFError:
            # The worker stops at once, since another job may soon hold the folder.
            os._exit(0)
        except Exception:  # noqa: BLE001
            traceback.print_exc()
            os._exit(1)

    def _stop(self) -> None:
        self._stopping = True
        if self._worker is None:
            os._exit(0)
        self._worker.stop()


class _Answering(logging.handlers.QueueHandler):
    """Sends log records to the other process, which prints them."""

    def __init__(self, answer: Callable[[Any], None]) -> None:
        super().__init__(SimpleQueue())
        self._answer = answer

    def enqueue(self, record: logging.LogRecord) -> None:
        self._answer(record)
