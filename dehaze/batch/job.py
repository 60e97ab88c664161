"""Runs a plan: keeps what is done, hands out the rest, and accounts for every photo."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dehaze.batch.effect import Effect
from dehaze.batch.item import Executor, Item, Status, leads_out, named
from dehaze.batch.journal import Journal, JournalError, Record
from dehaze.batch.plan import Plan, PlanError
from dehaze.digests import digest_of_file, digest_of_json
from dehaze.errors import reason
from dehaze.photos import PhotoError, discard_unfinished, printable

_NOT_HERE = "name another folder with -o, or add --overwrite"


@dataclass(frozen=True)
class Summary:
    """The outcome of a job.

    Attributes:
        items: every photo that was reached, in the order in which they ended.
        seconds: wall time of the whole job.
        interrupted: it was ended before its end.
        error: why it could not go on, or None.
    """

    items: tuple[Item, ...]
    seconds: float = 0.0
    interrupted: bool = False
    error: JournalError | None = None

    def having(self, status: Status) -> list[Item]:
        """The items with this status."""
        return [item for item in self.items if item.status == status]

    @property
    def remarks(self) -> Counter[str]:
        """How many results, done or kept, each remark is made of."""
        return Counter(remark for item in self.items for remark in item.effect.remarks)

    @property
    def seconds_per_photo(self) -> float:
        """Mean wall time of the photos done, NaN without any."""
        done = self.having("done")
        return sum(item.seconds for item in done) / len(done) if done else math.nan

    @property
    def evaluations_per_photo(self) -> float:
        """Mean network evaluations of the photos done, NaN without any."""
        done = self.having("done")
        return sum(item.evaluations for item in done) / len(done) if done else math.nan


class Job:
    """Work on one output folder under one set of settings; a context manager that holds the folder.

    A photo is kept, not done again, when the journal says that its output was made from the same
    content under the same settings, and every file of it still holds what was written. An output,
    or a file next to it, that exists and that the journal does not know is left alone: that photo
    fails.

    Args:
        output: the output folder, made if missing.
        settings: everything that decides a result, as JSON values.
        overwrite: do every photo, whatever is there.
    """

    def __init__(
        self, output: Path, *, settings: Mapping[str, Any], overwrite: bool = False
    ) -> None:
        self._output = output
        self._settings = digest_of_json(settings)
        self._overwrite = overwrite
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
                f"{printable(self._output)}: cannot be made ({reason(error)}); name another with -o"
            ) from error
        try:
            self._journal.__enter__()
        except JournalError as error:
            raise PlanError(str(error)) from error
        return self

    def __exit__(self, *exception: object) -> None:
        self._journal.__exit__(*exception)

    def run(self, plan: Plan, executor: Executor, progress: Callable[[Item], None]) -> Summary:
        """Do a plan. A photo that fails is accounted for, and the others are done.

        Args:
            plan: of this output folder; it stays as it is.
            executor: does what is left to do.
            progress: called with each item as it ends.

        Returns:
            Every photo reached. ``KeyboardInterrupt`` ends the job, and so does a journal that can
            no longer be written: what is being written is finished, and all else is dropped.
        """
        started = time.perf_counter()
        account = _Account(self._journal, self._settings, progress)
        interrupted, stopped_by = False, None
        try:
            _discard_unfinished(plan)
            for unreadable in plan.unreadable:
                account.end(Item(unreadable.path, self._output, Path(), error=unreadable))
            try:
                executor.run(self._left(plan.photos, account), account.close)
            except KeyboardInterrupt:
                interrupted = True
                account.drop_open()
            finally:
                # A worker that was killed may have left one.
                _discard_unfinished(plan)
        except JournalError as error:
            stopped_by = error
        seconds = time.perf_counter() - started
        return Summary(tuple(account.ended), seconds, interrupted, stopped_by)

    def _left(self, planned: Iterable[Item], account: _Account) -> Iterator[Item]:
        """The items that are to be done, each journalled as begun."""
        for item in map(replace, planned):
            try:
                status = item.source.stat()
                item.size, item.mtime_ns = status.st_size, status.st_mtime_ns
                if not self._overwrite:
                    if self._keep(item):
                        account.end(item)
                        continue
                    self._refuse_strange_output(item)
                    self._refuse_strange_files_beside(item)
            except (OSError, PhotoError) as error:
                item.error = named(item.source, error)
                account.refuse(item)
                continue
            account.begin(item)
            yield item

    def _keep(self, item: Item) -> bool:
        """Whether an earlier run did the item; the item then gets that run's remarks."""
        earlier = self._journal.done(item.name.as_posix())
        if earlier is None or (earlier["settings"], earlier["size"]) != (self._settings, item.size):
            return False
        place = relative(item.source, item.folder)
        if (earlier["mtime_ns"], earlier["input"]) != (item.mtime_ns, place) and (
            earlier["sha256"] != digest_of_file(item.source)
        ):
            return False
        if not self._journal.is_whole(earlier):
            return False
        item.status = "kept"
        item.notes = tuple(earlier.get("notes", ()))
        item.effect = Effect(
            _number(earlier.get("change")),
            _number(earlier.get("brightness")),
            tuple(earlier.get("remarks", ())),
        )
        return True

    def _refuse_strange_output(self, item: Item) -> None:
        if not os.path.lexists(item.output):
            return
        known = self._journal.known(item.name.as_posix())
        place = relative(item.source, item.folder)
        if any(earlier["input"] == place for earlier in known):
            return
        if not known:
            cause = f"its output {printable(item.output)} exists and was not made by dehaze"
        elif digest_of_file(item.source) in [earlier["sha256"] for earlier in known]:
            return
        else:
            cause = f"its output {printable(item.output)} was made from another photo"
        raise PhotoError(item.source, cause, _NOT_HERE)

    def _refuse_strange_files_beside(self, item: Item) -> None:
        known = self._journal.known(item.name.as_posix())
        if any(earlier["status"] != "done" for earlier in known):
            # An attempt that did not come to its end may have written them.
            return
        made = {file for earlier in known for file in written(earlier)}
        for path in item.beside_output:
            if os.path.lexists(path) and path.relative_to(item.folder).as_posix() not in made:
                cause = f"{printable(path)} exists and was not made by dehaze"
                raise PhotoError(item.source, cause, _NOT_HERE)


class _Account:
    """The account of one run's photos, in memory and in the journal."""

    def __init__(self, journal: Journal, settings: str, progress: Callable[[Item], None]) -> None:
        self._journal = journal
        self._settings = settings
        self._progress = progress
        self._open: dict[Path, Item] = {}
        self.ended: list[Item] = []

    def begin(self, item: Item) -> None:
        """An item is handed out."""
        self._journal.add(self._record(item, "started"))
        self._open[item.name] = item

    def refuse(self, item: Item) -> None:
        """An item failed before it was begun."""
        self._journal.add(self._record(item, "refused", error=str(item.error)))
        self.end(item)

    def close(self, item: Item) -> None:
        """An item that was handed out has ended."""
        del self._open[item.name]
        if item.error is not None:
            # Files are written before the result, which may then fail.
            left = [path.name for path in item.beside_output if os.path.lexists(path)]
            result: Record = {"error": str(item.error), "left": left}
        else:
            outdated = self._outdated(item)
            item.notes += tuple(
                f"{printable(item.folder / file)} is of an earlier run; remove it, or write it "
                "again with --save"
                for file in outdated
            )
            result = {
                "outdated": outdated,
                "network_evaluations": item.evaluations,
                "residual": finite(item.residual),
                "change": finite(item.effect.change),
                "brightness": finite(item.effect.brightness),
                "remarks": item.effect.remarks,
                "notes": item.notes,
            }
        status = "done" if item.error is None else "failed"
        self._journal.add(self._record(item, status, seconds=round(item.seconds, 3), **result))
        self.end(item)

    def _outdated(self, item: Item) -> list[str]:
        """The files next to a result that an earlier result left there, below the output folder."""
        earlier = self._journal.done(item.name.as_posix())
        return [
            file
            for file in ([] if earlier is None else written(earlier))
            if file not in item.files and os.path.lexists(item.folder / file)
        ]

    def end(self, item: Item) -> None:
        """An item is accounted for."""
        if item.error is not None:
            item.status = "failed"
        self.ended.append(item)
        self._progress(item)

    def drop_open(self) -> None:
        """Items that were handed out will not come any more.

        A file that is there may be from a worker that ended before it could report it.
        """
        lost = [
            item
            for item in self._open.values()
            if not any(map(os.path.lexists, (item.output, *item.beside_output)))
        ]
        self._journal.add(*(self._record(item, "dropped") for item in lost))

    def _record(self, item: Item, status: str, **more: Any) -> Record:
        return {
            "output": item.name.as_posix(),
            "input": relative(item.source, item.folder),
            "settings": self._settings,
            "size": item.size,
            "mtime_ns": item.mtime_ns,
            "sha256": item.sha256,
            "files": item.files,
            "status": status,
            **more,
        }


def _discard_unfinished(plan: Plan) -> None:
    """Remove what killed writes left in the output folder, which this job alone holds."""
    for folder in {item.output.parent for item in plan.photos}:
        if not leads_out(plan.output, folder):
            discard_unfinished(folder)


def written(record: Record) -> list[str]:
    """The files of a result and of those before it, below the output folder."""
    return [*record["files"], *record.get("outdated", ())]


def relative(path: Path, folder: Path) -> str:
    """The path as seen from the folder, so that both may move together."""
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:
        # Another drive has no relative path.
        return path.absolute().as_posix()


def finite(number: float) -> float | None:
    """A number as JSON has it: None for NaN."""
    return number if math.isfinite(number) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else value
