"""``dehaze run photos/``: the photos among the inputs, as a folder job."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dehaze.commands.clips import note_clips_left
from dehaze.commands.reporting import CommandError, note
from dehaze.commands.summaries import JsonLines, Text, left

if TYPE_CHECKING:
    from dehaze.batch import Executor, Job, Plan, Summary


@dataclass(frozen=True)
class PhotosJob:
    """The photos of one command.

    Attributes:
        job: keeps the journal in the output folder.
        executor: does the photos.
        say: tells of them.
    """

    job: Job
    executor: Executor
    say: Text | JsonLines

    def run(self, plan: Plan) -> Summary:
        """Do the photos of a plan."""
        with self.say.progress(len(plan.photos) + len(plan.unreadable)):
            summary = self.job.run(plan, self.executor, self.say.item)
        self.say.summary(plan, summary)
        return summary

    def keep_watch(self, looks: Iterator[Plan], so_far: Summary) -> Summary:
        """Do new photos until interrupted; the summary is of all that was done."""
        items = so_far.items
        try:
            for plan in looks:
                summary = self.run(plan)
                items += summary.items
                if summary.interrupted or summary.error is not None:
                    return replace(summary, items=items)
        except KeyboardInterrupt:
            pass
        return replace(so_far, items=items, interrupted=True)


def refuse_empty(plan: Plan) -> None:
    """Refuse a plan without photos.

    Raises:
        CommandError: it has none.
    """
    from dehaze.photos import PHOTO_SUFFIXES

    if plan.photos or plan.unreadable:
        return
    note_clips_left(plan.passed_over)
    others = f" among {len(plan.passed_over)} files" if plan.passed_over else ""
    raise CommandError(f"no photo found{others}; photos end in {', '.join(sorted(PHOTO_SUFFIXES))}")


def any_lossy(plan: Plan) -> bool:
    """Whether a photo of the plan has a quality, by its first bytes: a name may say otherwise."""
    from dehaze.photos.formats import format_of_file

    formats = (format_of_file(photo.source) for photo in plan.photos)
    return any(format is not None and format.has_quality for format in formats)


def write_job_report(plan: Plan, summary: Summary, settings: dict[str, Any]) -> None:
    """Write ``report.html`` into the output folder."""
    from dehaze.photos import printable
    from dehaze.report import REPORT_NAME, report_of_job, write_report

    path = plan.output / REPORT_NAME
    unreached = max(0, left(plan, summary))
    write_report(path, report_of_job(plan.output, summary.items, settings, unreached=unreached))
    note(f"report: {printable(path)}")
