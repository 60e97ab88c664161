"""The output of ``dehaze run`` while it runs and at its end: text, or JSON lines."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dehaze.commands.progress import Ended, progress
from dehaze.commands.reporting import Verbosity, note, problem, result, verbosity
from dehaze.wording import counted

if TYPE_CHECKING:
    from dehaze.batch import Item, Plan, Summary
    from dehaze.video.job import ClipResult


class Text:
    """Text for people: progress and failures on stderr, totals on stdout."""

    def __init__(self) -> None:
        self._ended: Ended | None = None

    @contextmanager
    def progress(self, total: int) -> Iterator[None]:
        """Show how many of the photos have ended, while this lasts."""
        with progress(total, "photo") as self._ended:
            yield

    def item(self, item: Item) -> None:
        """A photo has ended."""
        from dehaze.photos import printable

        if self._ended is not None:
            self._ended(kept=item.status == "kept")
        if item.status == "done":
            for text in (*item.notes, *item.effect.sentences()):
                note(f"{printable(item.source)}: note: {text}")
            if verbosity() is Verbosity.VERBOSE:
                note(f"{printable(item.source)}: {_cost(item)}")
        if item.error is not None:
            problem(str(item.error))

    def plan(self, plan: Plan) -> None:
        """What would be done."""
        from dehaze.photos import printable

        for photo in plan.photos:
            result(f"{printable(photo.source)} -> {printable(photo.output)}")
        counts = plan.counts()
        parts = [f"{counted(counts.photos, 'photo')} of {counts.megabytes:.1f} MB"]
        if counts.existing:
            parts.append(f"{counts.existing} with a result there already")
        if counts.unsupported:
            parts.append(f"{counts.unsupported} of a kind that cannot be read")
        if plan.unreadable:
            parts.append(f"{counted(len(plan.unreadable), 'folder')} that cannot be listed")
        if plan.passed_over:
            parts.append(
                f"{counted(len(plan.passed_over), 'file')} passed over as no photo or hidden"
            )
        if counts.inside_input:
            parts.append("the output lies inside an input and is not searched")
        result("; ".join((*parts, "nothing was done")))

    def summary(self, plan: Plan, summary: Summary) -> None:
        """A plan has been done, as far as it went."""
        result(_sentence(plan, summary))

    def planned(self, source: Path, output: Path) -> None:
        """A clip would be done."""
        from dehaze.photos import printable

        result(f"{printable(source)} -> {printable(output)}")

    def clip(self, source: Path, clip: ClipResult, cost: bool) -> None:
        """A clip has ended; ``cost``: say what it took as well."""
        from dehaze.photos import printable

        if clip.status == "kept":
            result(f"{printable(source)}: kept from an earlier run; {printable(clip.output)}")
            return
        for text in clip.notes:
            note(f"{printable(source)}: note: {text}")
        counts = (
            f"{n} {what}{'s' * (n != 1)}"
            for n, what in ((clip.frames, "frame"), (clip.shots, "shot"))
        )
        parts = [f"{printable(source)}: {', '.join(counts)}"]
        parts.append(f"{clip.seconds / max(clip.frames, 1):.2f} s a frame")
        if cost:
            parts.append(
                f"{clip.evaluations / max(clip.frames, 1):.1f} network evaluations a frame"
            )
        result("; ".join((*parts, f"in {printable(clip.output)}")))

    def clip_failed(self, source: Path, text: str) -> None:
        """A clip could not be done."""
        problem(text)


class JsonLines:
    """JSON for programs: one object a line on stdout; "event" names its kind."""

    @contextmanager
    def progress(self, total: int) -> Iterator[None]:
        """Nothing, since every photo has a line."""
        yield

    def item(self, item: Item) -> None:
        """A photo has ended."""
        from dehaze.batch.job import finite

        error = item.error
        self._emit(
            "photo",
            source=str(item.source),
            status=item.status,
            output=None if error is not None else str(item.output),
            error=None if error is None else {"cause": error.cause, "cure": error.cure},
            seconds=round(item.seconds, 3),
            network_evaluations=item.evaluations,
            residual=finite(item.residual),
            change=finite(item.effect.change),
            brightness=finite(item.effect.brightness),
            remarks=list(item.effect.remarks),
            notes=list(item.notes),
        )

    def plan(self, plan: Plan) -> None:
        """What would be done."""
        for photo in plan.photos:
            self._emit("planned", source=str(photo.source), output=str(photo.output))
        self._emit("plan", output=str(plan.output), **asdict(plan.counts()))

    def summary(self, plan: Plan, summary: Summary) -> None:
        """A plan has been done, as far as it went."""
        self._emit(
            "summary",
            output=str(plan.output),
            **{status: len(summary.having(status)) for status in ("done", "kept", "failed")},
            remarks=dict(summary.remarks),
            passed_over=len(plan.passed_over),
            left=left(plan, summary),
            seconds=round(summary.seconds, 3),
            interrupted=summary.interrupted,
        )

    def planned(self, source: Path, output: Path) -> None:
        """A clip would be done."""
        self._emit("planned", source=str(source), output=str(output))

    def clip(self, source: Path, clip: ClipResult, cost: bool) -> None:
        """A clip has ended."""
        self._emit(
            "clip",
            source=str(source),
            status=clip.status,
            output=str(clip.output),
            error=None,
            frames=clip.frames,
            shots=clip.shots,
            seconds=round(clip.seconds, 3),
            network_evaluations=clip.evaluations,
            notes=list(clip.notes),
        )

    def clip_failed(self, source: Path, text: str) -> None:
        """A clip could not be done."""
        self._emit("clip", source=str(source), status="failed", output=None, error=text)

    def _emit(self, event: str, **values: Any) -> None:
        result(json.dumps({"event": event, **values}))


def left(plan: Plan, summary: Summary) -> int:
    """How many photos of a plan were not reached."""
    return len(plan.photos) + len(plan.unreadable) - len(summary.items)


def _cost(item: Item) -> str:
    parts = [f"{item.seconds:.2f} s"]
    if item.evaluations:
        parts.append(f"{item.evaluations} network evaluations")
    if not math.isnan(item.residual):
        parts.append(f"residual {item.residual:.1e}")
    return ", ".join(parts)


def _sentence(plan: Plan, summary: Summary) -> str:
    from dehaze.photos import printable

    counts = [f"{len(summary.having('done'))} done"]
    for count, what in (
        (len(summary.having("kept")), "kept from an earlier run"),
        (len(summary.having("failed")), "failed"),
        (len(plan.passed_over), "passed over as no photo or hidden"),
    ):
        if count:
            counts.append(f"{count} {what}")
    parts = [", ".join(counts)]
    if summary.remarks:
        looks = (f"{count} {remark}" for remark, count in summary.remarks.items())
        parts.append(f"look at {', '.join(looks)}")
    if not math.isnan(summary.seconds_per_photo):
        parts.append(f"{summary.seconds_per_photo:.2f} s a photo")
        if verbosity() is Verbosity.VERBOSE and summary.evaluations_per_photo:
            parts.append(f"{summary.evaluations_per_photo:.0f} network evaluations a photo")
    parts.append(f"in {printable(plan.output)}")
    if left(plan, summary):
        parts.append(f"interrupted with {left(plan, summary)} to go, run it again to continue")
    return "; ".join(parts)
