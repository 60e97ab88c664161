"""Tools of the tests of folder jobs: photos of one shade, and cheap work to do on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dehaze.batch import Job, Outcome, Plan, Saved, Summary
from dehaze.batch.local import LocalExecutor
from dehaze.photos import FloatArray, Photo, write_photo


def photo_at(path: Path, shade: float = 0.25) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_photo(path, np.full((3, 5, 3), shade, np.float32))
    return path


def invert(photo: Photo) -> FloatArray:
    return 1 - photo.pixels


@dataclass
class FakeWorker:
    """Does what its function does to each photo, and writes the photo alone."""

    one: Callable[[Photo], FloatArray] = invert
    batch_size: int = 1

    def kind(self, photo: Photo) -> tuple[int, int]:
        return photo.size

    def process(self, photos: Sequence[Photo]) -> list[FloatArray | Exception]:
        return [self.one(photo) for photo in photos]

    def save(self, output: Path, photo: Photo, result: FloatArray) -> Saved:
        write_photo(output, result, like=photo)
        return Saved((output,), nfe=40, residual=0.5)


def do(
    plan: Plan,
    process: Callable[[Photo], FloatArray] = invert,
    *,
    worker: Any = None,
    progress: Callable[[Outcome], None] = lambda outcome: None,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> Summary:
    executor = LocalExecutor(worker or FakeWorker(process))
    with Job(plan.output, settings=settings or {"word": "haze"}, **options) as job:
        return job.run(plan, executor, progress)


def statuses(summary: Summary) -> list[str]:
    """By the photos' names: they end in any order."""
    return [outcome.status for outcome in sorted(summary.outcomes, key=lambda one: one.source)]


def outputs(plan: Plan) -> list[str]:
    return [photo.output.relative_to(plan.output).as_posix() for photo in plan.photos]
