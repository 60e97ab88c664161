"""Runs a plan: what is done is kept, what is left is handed out, every photo is accounted for."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dehaze.batch.journal import Journal, JournalError, Record, digest
from dehaze.batch.plan import Plan, PlanError, PlannedPhoto
from dehaze.batch.task import Executor, Report, Task, named
from dehaze.photos import MAX_MEGAPIXELS, PhotoError, discard_unfinished, printable

Status = Literal["done", "kept", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What became of one photo.

    Attributes:
        source: the photo, or the folder that could not be listed.
        status: "done" now, "kept" from an earlier run, or "failed".
        output: where its result lies, None where it failed.
        error: why it failed, or None.
        seconds: wall time of its own steps, reading and writing included.
        nfe: network evaluations, 0 unless done.
        residual: the worst residual of its inversion, NaN where there is none.
        notes: what could not come back as it was, or went another way than asked for.
    """

    source: Path
    status: Status
    output: Path | None = None
    error: PhotoError | None = None
    seconds: float = 0.0
    nfe: int = 0
    residual: float = math.nan
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Summary:
    """What became of a job: one outcome a photo that was reached, and whether all were.

    Attributes:
        outcomes: in the order in which they came.
        seconds: wall time of the whole job.
        interrupted: it was ended before its end.
        error: why it could not go on, or None.
    """

    outcomes: tuple[Outcome, ...]
    seconds: float = 0.0
    interrupted: bool = False
    error: JournalError | None = None

    def having(self, status: Status) -> list[Outcome]:
        """The outcomes with this status."""
        return [outcome for outcome in self.outcomes if outcome.status == status]

    @property
    def seconds_per_photo(self) -> float:
        """Mean wall time of the photos done, NaN without any."""
        done = self.having("done")
        return sum(outcome.seconds for outcome in done) / len(done) if done else math.nan

    @property
    def nfe_per_photo(self) -> float:
        """Mean network evaluations of the photos done, NaN without any."""
        done = self.having("done")
        return sum(outcome.nfe for outcome in done) / len(done) if done else math.nan


class Job:
    """Work on one output folder under one set of settings; a context manager that holds the folder.

    A photo is kept, not done again, when the journal says that its output was made from the same
    content under the same settings, and every file of it still holds what was written. An output
    that exists and that the journal does not know is left alone: that photo fails.

    Args:
        output: the output folder, made if missing.
        settings: everything that decides a result, as JSON values.
        overwrite: do every photo, whatever is there.
        max_megapixels: larger photos fail.
    """

    def __init__(
        self,
        output: Path,
        *,
        settings: Mapping[str, Any],
        overwrite: bool = False,
        max_megapixels: float = MAX_MEGAPIXELS,
    ) -> None:
        self._output = output
        self._settings = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        self._overwrite = overwrite
        self._max_megapixels = max_megapixels
        self._journal = Journal(output)

    def __enter__(self) -> Job:
        """Make the folder, and hold it.

        Raises:
            PlanError: it cannot be made, or another job holds it.
        """
        try:
            self._output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PlanError(
                f"{printable(self._output)}: cannot be made ({error.strerror}); name another "
                "with -o"
            ) from error
        try:
            self._journal.__enter__()
        except JournalError as error:
            raise PlanError(str(error)) from error
        return self

    def __exit__(self, *exception: object) -> None:
        self._journal.__exit__(*exception)

    def run(self, plan: Plan, executor: Executor, progress: Callable[[Outcome], None]) -> Summary:
        """Do a plan. A photo that fails is accounted for, and the others are done.

        Args:
            plan: of this output folder.
            executor: does what is left to do.
            progress: called with each outcome as it comes.

        Returns:
            One outcome for each photo reached. ``KeyboardInterrupt`` ends the job, and so does a
            journal that can no longer be written: what is being written is finished, what has not
            come so far is dropped.
        """
        started = time.perf_counter()
        outcomes: list[Outcome] = []
        open_records: dict[Path, tuple[Path, Record]] = {}

        def account(outcome: Outcome) -> None:
            outcomes.append(outcome)
            progress(outcome)

        def tasks() -> Iterator[Task]:
            for photo in plan.photos:
                record, outcome = self._claim(photo)
                if outcome is not None:
                    account(outcome)
                    continue
                task = self._task(photo)
                open_records[task.output] = (photo.source, record)
                yield task

        def report(done: Report) -> None:
            source, record = open_records.pop(done.task.output)
            account(self._close(source, record, done))

        interrupted, stopped_by = False, None
        try:
            for folder in {photo.output.parent for photo in plan.photos}:
                discard_unfinished(folder)
            for unreadable in plan.unreadable:
                account(Outcome(unreadable.path, "failed", error=unreadable))
            try:
                executor.run(tasks(), report)
            except KeyboardInterrupt:
                interrupted = True
                # What has a file may have been written by a worker that could not say so any more.
                self._journal.add(
                    *(
                        record | {"status": "dropped"}
                        for output, (_, record) in open_records.items()
                        if not os.path.lexists(output)
                    )
                )
        except JournalError as error:
            stopped_by = error
        return Summary(tuple(outcomes), time.perf_counter() - started, interrupted, stopped_by)

    def _task(self, photo: PlannedPhoto) -> Task:
        return Task(
            Path(os.path.abspath(photo.source)),
            Path(os.path.abspath(photo.output)),
            Path(os.path.abspath(self._output)),
            self._max_megapixels,
        )

    def _claim(self, photo: PlannedPhoto) -> tuple[Record, Outcome | None]:
        """The record of a photo that is to be done, or its outcome if it is not."""
        record: Record = {
            "output": photo.output.relative_to(self._output).as_posix(),
            "input": _relative(photo.source, self._output),
            "settings": self._settings,
            "size": None,
            "mtime_ns": None,
            "sha256": None,
            "files": {},
        }
        try:
            status = photo.source.stat()
            record |= {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
            if not self._overwrite:
                if self._is_done(photo, record):
                    return record, Outcome(photo.source, "kept", photo.output)
                self._refuse_strange_output(photo, record)
        except (OSError, PhotoError) as error:
            problem = named(photo.source, error)
            self._journal.add(record | {"status": "refused", "error": str(problem)})
            return record, Outcome(photo.source, "failed", error=problem)
        self._journal.add(record | {"status": "started"})
        return record, None

    def _close(self, source: Path, record: Record, report: Report) -> Outcome:
        record = record | {"sha256": report.sha256, "seconds": round(report.seconds, 3)}
        if report.error is not None:
            # Said with the name that the photo was given by, not with its absolute one.
            problem = PhotoError(source, report.error.cause, report.error.cure)
            self._journal.add(record | {"status": "failed", "error": str(problem)})
            return Outcome(source, "failed", error=problem, seconds=report.seconds)
        folder = Path(os.path.abspath(self._output))
        self._journal.add(
            record
            | {
                "status": "done",
                "files": {
                    path.relative_to(folder).as_posix(): sha256
                    for path, sha256 in report.files.items()
                },
                "nfe": report.nfe,
                "residual": report.residual if math.isfinite(report.residual) else None,
                "notes": report.notes,
            }
        )
        return Outcome(
            source,
            "done",
            self._output / record["output"],
            seconds=report.seconds,
            nfe=report.nfe,
            residual=report.residual,
            notes=report.notes,
        )

    def _is_done(self, photo: PlannedPhoto, record: Record) -> bool:
        earlier = self._journal.done(record["output"])
        if earlier is None or any(earlier[key] != record[key] for key in ("settings", "size")):
            return False
        touched = any(earlier[key] != record[key] for key in ("mtime_ns", "input"))
        if touched and earlier["sha256"] != digest(photo.source):
            return False
        return self._journal.is_whole(earlier)

    def _refuse_strange_output(self, photo: PlannedPhoto, record: Record) -> None:
        if not os.path.lexists(photo.output):
            return
        known = self._journal.known(record["output"])
        if any(earlier["input"] == record["input"] for earlier in known):
            return
        if not known:
            cause = f"its output {printable(photo.output)} exists and was not made by dehaze"
        elif digest(photo.source) in [earlier["sha256"] for earlier in known]:
            return
        else:
            cause = f"its output {printable(photo.output)} was made from another photo"
        raise PhotoError(photo.source, cause, "name another folder with -o, or add --overwrite")


def _relative(path: Path, folder: Path) -> str:
    """The path as seen from the folder, so that both may move together."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        # Another drive has no relative path.
        return path.absolute().as_posix()
