"""Many results as one archive, made while it is being sent."""

from __future__ import annotations

import asyncio
import secrets
import time
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import IO, Any, cast

from dehaze.errors import DehazeError
from dehaze.webui.dehazing import Dehazed, Settings
from dehaze.webui.engine import BusyError
from dehaze.webui.service import in_words
from dehaze.webui.workspace import Held, UnknownError

_BLOCK = 1 << 20
_EXPORTS_KEPT = 20
_RETRY_SECONDS = 0.5
FAILURES_NAME = "NOT DONE.txt"
"""The file of the archive that names the photos that failed."""
NOTES_NAME = "NOTES.txt"
"""The file of the archive that says what differs from the photos besides the haze."""

Dehaze = Callable[[Held, Settings], Awaitable[Dehazed]]


class _Pipe:
    """A file that keeps its bytes until they are taken."""

    def __init__(self) -> None:
        self._written = bytearray()

    def write(self, data: bytes) -> int:
        self._written += data
        return len(data)

    def flush(self) -> None:
        pass

    def take(self) -> bytes:
        taken = bytes(self._written)
        self._written.clear()
        return taken


@dataclass
class Export:
    """Photos on their way into one archive.

    Attributes:
        photos: each with its settings.
        done: how many are in the archive.
        failures: name, cause and cure of each that failed.
        notes: the name of a photo, and a sentence on its result, each.
        started: when the first was begun, by ``time.monotonic``; None before.
        finished: the archive is complete.
        stopped: its download was broken off.
    """

    photos: Sequence[tuple[Held, Settings]]
    done: int = 0
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    started: float | None = None
    finished: bool = False
    stopped: bool = False

    def progress(self) -> dict[str, Any]:
        """Counts, failures, and the seconds that are left, None before the first photo."""
        over = self.done + len(self.failures)
        left = None
        if over and self.started is not None:
            left = (time.monotonic() - self.started) / over * (len(self.photos) - over)
        return {
            "done": self.done,
            "total": len(self.photos),
            "failures": self.failures,
            "notes": self.notes,
            "seconds_left": left,
            "finished": self.finished,
            "stopped": self.stopped,
        }

    async def stream(self, dehaze: Dehaze) -> AsyncIterator[bytes]:
        """The archive, block by block; a photo that fails is named in ``FAILURES_NAME``."""
        try:
            async for block in self._blocks(dehaze):
                yield block
        finally:
            self.stopped = not self.finished

    async def _blocks(self, dehaze: Dehaze) -> AsyncIterator[bytes]:
        pipe = _Pipe()
        self.done, self.failures, self.notes = 0, [], []
        self.finished = self.stopped = False
        self.started = time.monotonic()
        names = archive_names([held.name for held, _ in self.photos])
        # Photos are compressed already.
        with zipfile.ZipFile(cast(IO[bytes], pipe), "w", zipfile.ZIP_STORED) as archive:
            for (held, settings), name in zip(self.photos, names, strict=True):
                try:
                    made = await _patiently(dehaze, held, settings)
                except (DehazeError, MemoryError, RuntimeError, OSError) as error:
                    words = in_words(error)
                    self.failures.append(f"{held.name}: {words['error']}; {words['cure']}")
                    continue
                try:
                    async for block in _member(archive, pipe, made.path, name):
                        yield block
                finally:
                    made.path.unlink(missing_ok=True)
                self.notes += [f"{name}: {note}" for note in made.notes]
                self.done += 1
            for file, lines in ((FAILURES_NAME, self.failures), (NOTES_NAME, self.notes)):
                if lines:
                    archive.writestr(file, "\n".join([*lines, ""]))
        self.finished = True
        yield pipe.take()


async def _patiently(dehaze: Dehaze, held: Held, settings: Settings) -> Dehazed:
    while True:
        try:
            return await dehaze(held, settings)
        except BusyError:
            await asyncio.sleep(_RETRY_SECONDS)


async def _member(
    archive: zipfile.ZipFile, pipe: _Pipe, path: Path, name: str
) -> AsyncIterator[bytes]:
    with open(path, "rb") as file, archive.open(name, "w", force_zip64=True) as member:
        while block := await asyncio.to_thread(file.read, _BLOCK):
            member.write(block)
            yield pipe.take()


def archive_names(names: Sequence[str]) -> list[str]:
    """The names made unique: a second a.jpg becomes "a (2).jpg".

    >>> archive_names(["a.jpg", "A.jpg", "b.png", "a.jpg"])
    ['a.jpg', 'A (2).jpg', 'b.png', 'a (3).jpg']
    """
    taken = {FAILURES_NAME.lower(), NOTES_NAME.lower()}
    found = []
    for name in names:
        path, number, own = PurePath(name), 2, name
        while own.lower() in taken:
            own = f"{path.stem} ({number}){path.suffix}"
            number += 1
        taken.add(own.lower())
        found.append(own)
    return found


class Exports:
    """The exports of all tabs; the oldest are forgotten."""

    def __init__(self) -> None:
        self._exports: dict[tuple[str, str], Export] = {}

    def add(self, tab: str, export: Export) -> str:
        """Keep an export; its key."""
        key = secrets.token_urlsafe(16)
        self._exports[tab, key] = export
        while len(self._exports) > _EXPORTS_KEPT:
            self._exports.pop(next(iter(self._exports)))
        return key

    def get(self, tab: str, key: str) -> Export:
        """An export of a tab.

        Raises:
            UnknownError: there is none.
        """
        try:
            return self._exports[tab, key]
        except KeyError:
            raise UnknownError("this download is no longer known: start it again") from None
