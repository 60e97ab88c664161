"""The memory of an output folder: what was made in it, from what, and how.

One JSON object a line, appended and synchronised to the disk before the next step, so that a job
killed at any moment can be continued. A photo is "started" before anything is written, so that an
output without a record is still known as ours. Then it is "done", "failed" or, where the job was
interrupted, "dropped". "refused" is a photo that failed before it was started. A line that a killed
job left unfinished counts as not written.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dehaze.digests import is_whole
from dehaze.errors import DehazeError, reason
from dehaze.photos import printable

Record = dict[str, Any]

JOURNAL_NAME = ".dehaze.jsonl"
LOCK_NAME = ".dehaze.lock"
_KEYS = frozenset({"output", "input", "settings", "size", "mtime_ns", "sha256", "status", "files"})

logger = logging.getLogger(__name__)


class JournalError(DehazeError, ValueError):
    """The journal cannot be used, in one line: what stands in the way, and the cure."""


@dataclass
class _Entry:
    """The journal's records of one output.

    An attempt that was dropped wrote nothing, so the records before it still hold. So did one that
    failed, unless its record says what it left.

    Attributes:
        done: the last record of a result, or None.
        claimed: the record of an attempt that has not ended, or None.
        claimed_before: what ``claimed`` was before that attempt.
    """

    done: Record | None = None
    claimed: Record | None = None
    claimed_before: Record | None = None

    def take(self, record: Record) -> None:
        if record["status"] == "started":
            self.claimed_before, self.claimed = self.claimed, record
        elif record["status"] == "done":
            self.done, self.claimed, self.claimed_before = record, None, None
        elif record.get("left"):
            self.claimed = record
        elif record["status"] in ("failed", "dropped"):
            self.claimed, self.claimed_before = self.claimed_before, None


class Journal:
    """The journal of one output folder, held by one job at a time.

    A context manager: the folder is locked on entry, and a second job is refused.

    Args:
        folder: the output folder; it must exist on entry.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / JOURNAL_NAME
        self._lock = FileLock(folder / LOCK_NAME)
        self._entries: dict[str, _Entry] = {}

    def __enter__(self) -> Journal:
        """Lock the folder and read what earlier jobs did.

        Raises:
            JournalError: another job holds the folder, or the journal cannot be read or written.
        """
        for path in (self._path, self._folder / LOCK_NAME):
            if path.is_symlink():
                raise JournalError(
                    f"{printable(path)}: is a link, which could lead out of the output folder; "
                    "remove it"
                )
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise JournalError(
                f"{printable(self._folder)}: another dehaze run is writing to it; wait for its "
                "end, or name another folder with -o"
            ) from error
        except (OSError, NotImplementedError) as error:
            raise JournalError(
                f"{printable(self._folder)}: cannot be locked ({reason(error)}); check the "
                "folder's permissions, or name another with -o"
            ) from error
        try:
            self._read()
            self.add()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.release()

    def add(self, *records: Record) -> None:
        """Append records, and return once they are on the disk.

        Raises:
            JournalError: they cannot be written.
        """
        try:
            self._append(records)
        except OSError as error:
            raise self._unusable(error) from error
        for record in records:
            self._entries.setdefault(record["output"], _Entry()).take(record)

    def done(self, output: str) -> Record | None:
        """The record of the last result at this place, or None."""
        entry = self._entries.get(output)
        return entry.done if entry is not None else None

    def known(self, output: str) -> list[Record]:
        """The records of all results and unfinished attempts that a file here can come from."""
        entry = self._entries.get(output, _Entry())
        records = (entry.done, entry.claimed, entry.claimed_before)
        return [record for record in records if record is not None]

    def is_whole(self, record: Record) -> bool:
        """Whether every file of a result still holds what was written."""
        return is_whole(self._folder, record["files"])

    def _append(self, records: Iterable[Record]) -> None:
        lines = "".join(json.dumps(record) + "\n" for record in records)
        with open(self._path, "ab+") as file:
            # A line that a killed run left unfinished must not swallow the next one.
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    lines = "\n" + lines
            file.write(lines.encode("ascii"))
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> None:
        try:
            lines = self._path.read_bytes().splitlines() if self._path.exists() else []
        except OSError as error:
            raise self._unusable(error) from error
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if isinstance(record, dict) and record.keys() >= _KEYS:
                self._entries.setdefault(record["output"], _Entry()).take(record)
            elif line:
                logger.debug("%s: a damaged line is passed over", self._path)

    def _unusable(self, error: OSError) -> JournalError:
        return JournalError(
            f"{printable(self._path)}: cannot be read or written ({reason(error)}); check the "
            "folder's permissions and the room on the disk, and run it again to continue"
        )
