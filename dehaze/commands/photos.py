"""``dehaze run photos/``: the photos among the inputs, as a folder job."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dehaze.commands.clips import note_clips_left
from dehaze.commands.reporting import CommandError, note
from dehaze.commands.run_options import RunOptions
from dehaze.commands.summaries import JsonLines, Text, left
from dehaze.commands.task import Task, executor_of, with_cards
from dehaze.wording import counted

if TYPE_CHECKING:
    from dehaze.batch import Executor, Job, Plan, Summary


def plan_photos(inputs: Sequence[Path], asked: RunOptions) -> Plan:
    """The plan for photos and folders of photos.

    Raises:
        CommandError: there is no photo, and none is waited for.
        PlanError: an output would replace an input or another one, or the disk is full.
    """
    from dehaze import batch

    plan = batch.plan(inputs, asked.output, **asked.planning)
    if asked.watch is None:
        _refuse_empty(plan)
    batch.check_room(plan)
    return plan


def any_lossy(plan: Plan) -> bool:
    """Whether a photo of the plan has a quality, by its first bytes: a name may say otherwise."""
    from dehaze.photos.formats import format_of_file

    formats = (format_of_file(photo.source) for photo in plan.photos)
    return any(format is not None and format.has_quality for format in formats)


@dataclass(frozen=True)
class PhotosJob:
    """The photos of one command.

    Attributes:
        inputs: photos and folders of them.
        asked: the command's options.
        plan: of the inputs.
        task: what is done to each photo.
        executor: does it.
        say: tells of them.
    """

    inputs: Sequence[Path]
    asked: RunOptions
    plan: Plan
    task: Task
    executor: Executor
    say: Text | JsonLines

    @classmethod
    def of(
        cls, inputs: Sequence[Path], asked: RunOptions, plan: Plan, say: Text | JsonLines
    ) -> PhotosJob:
        """Load the model, and name what the folders hold besides photos."""
        from dehaze.batch import JOURNAL_NAME
        from dehaze.photos import printable

        for folder in plan.results:
            note(f"{printable(folder)}: holds results of an earlier run and is not searched")
        for folder in plan.searched:
            if (folder / JOURNAL_NAME).is_file():
                note(
                    f"{printable(folder)}: holds results of an earlier run, which are done as well"
                )
        note_clips_left(plan.passed_over)
        task = asked.task()
        if asked.report:
            task = with_cards(task, asked.output)
        sizes = plan.sizes_left(overwrite=not asked.resume)
        executor = executor_of(task, asked.executor, asked.ray_address, asked.workers, sizes)
        return cls(inputs, asked, plan, task, executor, say)

    @property
    def watches(self) -> bool:
        """Whether new photos are waited for, until the command is interrupted."""
        return self.asked.watch is not None

    def run(self) -> Summary:
        """Do all photos, watch for new ones and write the report, as far as the options ask."""
        from dehaze.batch import Job

        output, overwrite = self.asked.output, not self.asked.resume
        job = Job(output, settings=self.task.settings, overwrite=overwrite)
        with closing(self.executor), job:
            summary = self._do(job, self.plan)
            if self.asked.watch is not None and not summary.interrupted and summary.error is None:
                summary = self._keep_watch(job, self.asked.watch, summary)
            if self.asked.report:
                self._write_report(summary)
        return summary

    def _do(self, job: Job, plan: Plan) -> Summary:
        with self.say.progress(len(plan.photos) + len(plan.unreadable)):
            summary = job.run(plan, self.executor, self.say.item)
        self.say.summary(plan, summary)
        return summary

    def _keep_watch(self, job: Job, seconds: float, so_far: Summary) -> Summary:
        """Do new photos until interrupted; the summary is of all that was done."""
        from dehaze import batch

        # A photo that was changed and done again counts as it was done last.
        items = {item.source: item for item in so_far.items}
        try:
            for plan in batch.watch(
                self.inputs, self.asked.output, seconds, seen=so_far.items, **self.asked.planning
            ):
                summary = self._do(job, plan)
                items |= {item.source: item for item in summary.items}
                if summary.interrupted or summary.error is not None:
                    return replace(summary, items=tuple(items.values()))
        except KeyboardInterrupt:
            pass
        return replace(so_far, items=tuple(items.values()), interrupted=True)

    def _write_report(self, summary: Summary) -> None:
        """Write ``report.html`` into the output folder."""
        from dehaze.photos import printable
        from dehaze.report import REPORT_NAME, report_of_job, write_report

        output, path = self.plan.output, self.plan.output / REPORT_NAME
        unreached = max(0, left(self.plan, summary))
        page = report_of_job(output, summary.items, self.task.settings, unreached=unreached)
        write_report(path, page)
        note(f"report: {printable(path)}")


def _refuse_empty(plan: Plan) -> None:
    """Refuse a plan without photos.

    Raises:
        CommandError: it has none.
    """
    from dehaze.photos import PHOTO_SUFFIXES

    if plan.photos or plan.unreadable:
        return
    note_clips_left(plan.passed_over)
    others = f" among {counted(len(plan.passed_over), 'file')}" if plan.passed_over else ""
    raise CommandError(f"no photo found{others}; photos end in {', '.join(sorted(PHOTO_SUFFIXES))}")
