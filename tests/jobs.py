"""Tools for tests of folder jobs: photos of one shade, and cheap work on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dehaze.batch import Item, Job, Plan, Summary
from dehaze.batch.item import write_result
from dehaze.batch.local import LocalExecutor
from dehaze.photos import FloatArray, Photo, write_photo


def photo_at(path: Path, shade: float = 0.25) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_photo(path, np.full((3, 5, 3), shade, np.float32))
    return path


def invert(photo: Photo) -> FloatArray:
    return 1 - photo.pixels


class FakeWork:
    """Work for tests that need only its start."""

    may_be_parallel = True

    def start(self) -> FakeWorker:
        return FakeWorker()

    def on_cpu(self) -> Any:
        return self

    def photos_at_once(self, *, accelerated: bool) -> int:
        return 1

    def fingerprint(self) -> str:
        return ""


@dataclass
class FakeWorker:
    """Applies its function to each photo, and writes the photo without files beside it."""

    one: Callable[[Photo], FloatArray] = invert
    batch_size: int = 1
    parallel: bool = False

    def kind(self, photo: Photo) -> tuple[int, int]:
        return photo.size

    def process(self, items: Sequence[Item]) -> None:
        for item in items:
            item.result = self.one(item.decoded())
            item.evaluations, item.residual = 40, 0.5

    def save(self, item: Item) -> list[Path]:
        write_result(item, item.result)
        return [item.output]

    def stop(self) -> None:
        """Nothing takes long."""


def do(
    plan: Plan,
    process: Callable[[Photo], FloatArray] = invert,
    *,
    worker: Any = None,
    progress: Callable[[Item], None] = lambda item: None,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> Summary:
    executor = LocalExecutor(worker or FakeWorker(process))
    with Job(plan.output, settings=settings or {"word": "haze"}, **options) as job:
        return job.run(plan, executor, progress)


def statuses(summary: Summary) -> list[str]:
    """Statuses by the photos' names, since photos end in any order."""
    return [item.status for item in sorted(summary.items, key=lambda one: one.source)]


def outputs(plan: Plan) -> list[str]:
    return [item.name.as_posix() for item in plan.photos]
