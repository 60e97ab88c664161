"""What an evaluation keeps: a record for each image and method, and the rows made from them."""

from __future__ import annotations

import csv
import io
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import numpy as np
from PIL import features

import dehaze.datasets
from dehaze import __version__
from dehaze.digests import digest_of_code, digest_of_folder, digest_of_json
from dehaze.eval.methods import Method

_PACKAGES = ("numpy", "opencv-python-headless", "Pillow", "scikit-image", "torch")


@dataclass(frozen=True)
class Record:
    """One image under one method.

    Attributes:
        subset: the data set's name.
        image: the picture's name within it.
        method: the row's label.
        key: hash of protocol, method, seed and versions, on which the record depends.
        inputs: SHA-256 of the files of the sample, and of those that the method takes.
        files: SHA-256 of each file that was kept, by its path below the run's folder.
        error: why it failed; None when it was scored.
        values: metric by name; None stands for a value that is infinite or undefined.
        identical: output and ground truth are equal: PSNR is infinite.
        candidate: under an oracle, the candidate that was best.
        nfe: network evaluations.
        seconds: time that the method took.
        width: of the scored picture, in pixels.
        height: of the scored picture, in pixels.
        notes: conversions and crops that were needed.
    """

    subset: str
    image: str
    method: str
    key: str
    inputs: str
    files: dict[str, str] = field(default_factory=dict)
    error: str | None = None
    values: dict[str, float | None] = field(default_factory=dict)
    identical: bool = False
    candidate: str | None = None
    nfe: int | None = None
    seconds: float = 0.0
    width: int = 0
    height: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Statistic:
    """A metric over the images of a row.

    Attributes:
        mean: the arithmetic mean of the defined values, or None where there is none.
        deviation: their population standard deviation.
        count: how many values are defined.
    """

    mean: float | None
    deviation: float | None
    count: int


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        subset: the data set's name.
        method: the label.
        title: what the method is.
        is_ceiling: a bound rather than a method.
        is_oracle: the ground truth chose among its candidates.
        images: how many were planned.
        failed: how many of them failed.
        identical: how many have an infinite PSNR, left out of its mean.
        statistics: by metric.
    """

    subset: str
    method: str
    title: str
    is_ceiling: bool
    is_oracle: bool
    images: int
    failed: int
    identical: int
    statistics: dict[str, Statistic]


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        rows: the table.
        records: one an image and method, in the order of the plan.
        unusable: one line for every input that could not become a sample.
    """

    rows: tuple[Row, ...]
    records: tuple[Record, ...]
    unusable: tuple[str, ...]

    @property
    def metrics(self) -> list[str]:
        """The metrics of the table, in the order of their first row."""
        return list(dict.fromkeys(name for row in self.rows for name in row.statistics))

    @property
    def failures(self) -> list[str]:
        """One line for everything that failed."""
        failed = [
            f"{record.subset}/{record.image}, {record.method}: {record.error}"
            for record in self.records
            if record.error is not None
        ]
        return [*self.unusable, *failed]


def statistic(values: Iterable[float | None]) -> Statistic:
    """Mean and population standard deviation of the values that are not None."""
    defined = np.array([value for value in values if value is not None], dtype=np.float64)
    if defined.size == 0:
        return Statistic(None, None, 0)
    return Statistic(float(defined.mean()), float(defined.std()), int(defined.size))


def row_of(subset: str, method: Method, records: Sequence[Record], *, is_oracle: bool) -> Row:
    """The line of the table for one method on one data set.

    Args:
        subset: the data set's name.
        method: the method.
        records: of the whole evaluation.
        is_oracle: whether the ground truth chose among the method's candidates.
    """
    mine = [r for r in records if r.subset == subset and r.method == method.name]
    names = dict.fromkeys(name for record in mine for name in record.values)
    return Row(
        subset=subset,
        method=method.name,
        title=method.title,
        is_ceiling=method.is_ceiling,
        is_oracle=is_oracle,
        images=len(mine),
        failed=sum(record.error is not None for record in mine),
        identical=sum(record.identical for record in mine),
        statistics={name: statistic(record.values.get(name) for record in mine) for name in names},
    )


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """The versions of all that numbers depend on, the JPEG decoder's among them."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    found["dehaze"] = __version__
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    turbo = features.version_feature("libjpeg_turbo")
    found["libjpeg"] = f"turbo {turbo}" if turbo else str(features.version("jpg"))
    return found


@lru_cache(maxsize=1)
def digest_of_evaluation() -> str:
    """SHA-256 of the code that numbers depend on: of the methods, the data sets and the scores."""
    folders = Path(__file__).parent, Path(dehaze.datasets.__file__).parent
    return digest_of_json([digest_of_code(), *map(digest_of_folder, folders)])


_BEFORE = ("subset", "image", "method", "status")
_AFTER = ("candidate", "nfe", "seconds", "width", "height", "notes", "error")


def records_as_csv(records: Sequence[Record]) -> str:
    """One line an image and method: what was scored, or why it failed."""
    names = list(dict.fromkeys(name for record in records for name in record.values))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [*_BEFORE, *names, *_AFTER], lineterminator="\n")
    writer.writeheader()
    for record in records:
        line = {name: getattr(record, name, None) for name in (*_BEFORE, *_AFTER)}
        line["status"] = "scored" if record.error is None else "failed"
        line["notes"] = " | ".join(record.notes)
        writer.writerow(line | {name: _cell(record, name) for name in names})
    return buffer.getvalue()


def _cell(record: Record, name: str) -> str:
    if name == "psnr" and record.identical:
        return "inf"
    value = record.values.get(name)
    return "" if value is None else f"{value:.6f}"
