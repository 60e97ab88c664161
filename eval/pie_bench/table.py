"""The edits of PIE-Bench scored one by one, and the table of their means."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dehaze.datasets.pie_bench import EditSample
from dehaze.eval.files import write_table
from dehaze.eval.pie_bench.metrics import METRIC_NAMES, MetricSet, Picture


def result_panel(picture: Picture, like: Picture) -> Picture:
    """The result in a strip of panels: the right end of a picture wider than the source.

    The published script writes instruction, source, reconstruction and result side by side, and
    scores the rightmost part.

    Raises:
        ValueError: the picture is smaller than the source, or of another height.
    """
    height, width = like.shape[:2]
    if picture.shape[0] != height or picture.shape[1] < width:
        raise ValueError(
            f"the result is {picture.shape[1]}x{picture.shape[0]} and the picture {width}x{height}"
        )
    return picture[:, picture.shape[1] - width :]


@dataclass(frozen=True)
class EditScore:
    """The metrics of one edit.

    Attributes:
        key: the edit's name in PIE-Bench.
        kind: its editing type, "0" to "9".
        values: each metric by its published name; NaN where there was nothing to compare.
    """

    key: str
    kind: str
    values: dict[str, float]


@dataclass(frozen=True)
class PieBenchTable:
    """The scores of many edits.

    Attributes:
        command: the command line that made the table.
        method: what was scored, in words.
        scores: one for each edit that could be scored.
        missing: why a metric was not computed, by the metric's name.
        failures: one sentence for each edit that could not be scored.
    """

    command: str
    method: str
    scores: tuple[EditScore, ...]
    missing: dict[str, str]
    failures: tuple[str, ...]

    @property
    def computed(self) -> list[str]:
        """The metrics whose networks are on this machine."""
        return [name for name in METRIC_NAMES if name not in self.missing]

    def mean(self, name: str) -> tuple[float, int]:
        """The mean of a metric over its finite values, and how many edits it leaves out.

        PSNR is infinite where the backgrounds are identical; every metric of the background is NaN
        where the mask covers the whole picture.
        """
        values = [score.values[name] for score in self.scores]
        finite = [value for value in values if math.isfinite(value)]
        return (float(np.mean(finite)) if finite else math.nan), len(values) - len(finite)

    def markdown(self) -> str:
        """The table, ready for the terminal."""
        lines = [
            f"{self.method}: {len(self.scores)} edits scored, {len(self.failures)} failed.",
            "",
            "| metric | mean | left out |",
            "| --- | ---: | ---: |",
        ]
        for name in METRIC_NAMES:
            if name in self.missing:
                lines.append(f"| {name} | not computed: {self.missing[name]} | |")
            elif self.scores:
                mean, out = self.mean(name)
                lines.append(f"| {name} | {mean:.4f} | {out} |")
        return "\n".join([*lines, "", f"`{self.command}`", ""])

    def write(self, folder: Path) -> list[Path]:
        """Writes pie_bench.json, .csv and .md; returns their paths."""
        means = {name: self.mean(name) for name in self.computed} if self.scores else {}
        return write_table(
            folder,
            "pie_bench",
            content={
                "command": self.command,
                "method": self.method,
                "means": {name: mean for name, (mean, _) in means.items()},
                "left_out": {name: count for name, (_, count) in means.items()},
                "missing": self.missing,
                "failures": self.failures,
            },
            columns=["key", "editing_type_id", *self.computed],
            rows=[
                {"key": score.key, "editing_type_id": score.kind, **score.values}
                for score in self.scores
            ],
            markdown=self.markdown(),
        )


@dataclass(frozen=True)
class PieBenchComparison:
    """Several methods' scores of the same edits, a row each.

    Attributes:
        tables: of each method, two or more.
    """

    tables: tuple[PieBenchTable, ...]

    @property
    def failures(self) -> tuple[str, ...]:
        """One sentence for each edit that could not be scored."""
        return tuple(f"{table.method}: {line}" for table in self.tables for line in table.failures)

    def markdown(self) -> str:
        """The table, ready for the terminal: methods by the metrics that were computed."""
        missing, computed = self.tables[0].missing, self.tables[0].computed
        lines = [
            f"| method | edits | failed | {' | '.join(computed)} |",
            f"| --- | {' | '.join(['---:'] * (2 + len(computed)))} |",
        ]
        for table in self.tables:
            means = [f"{table.mean(name)[0]:.4f}" for name in computed]
            counts = (str(len(table.scores)), str(len(table.failures)))
            lines.append(f"| {table.method} | {' | '.join([*counts, *means])} |")
        notes = [f"- {name} is not computed: {cause}" for name, cause in missing.items()]
        return "\n".join([*lines, "", *notes, "", f"`{self.tables[0].command}`", ""])

    def write(self, folder: Path) -> list[Path]:
        """Writes pie_bench.json, .csv and .md; returns their paths."""
        missing, computed = self.tables[0].missing, self.tables[0].computed
        return write_table(
            folder,
            "pie_bench",
            content={
                "command": self.tables[0].command,
                "methods": {
                    table.method: {name: table.mean(name)[0] for name in computed}
                    for table in self.tables
                },
                "left_out": {
                    table.method: {name: table.mean(name)[1] for name in computed}
                    for table in self.tables
                },
                "missing": missing,
                "failures": self.failures,
            },
            columns=["method", "key", "editing_type_id", *computed],
            rows=[
                {
                    "method": table.method,
                    "key": score.key,
                    "editing_type_id": score.kind,
                    **score.values,
                }
                for table in self.tables
                for score in table.scores
            ],
            markdown=self.markdown(),
        )


def score_edits(
    samples: Sequence[EditSample],
    pictures: Callable[[EditSample], tuple[Picture, Picture]],
    metrics: MetricSet,
    *,
    method: str,
    command: str,
    on_edit: Callable[[str], None] = lambda key: None,
) -> PieBenchTable:
    """Scores edits one after the other; those that fail are named.

    Args:
        samples: the edits.
        pictures: gives an edit's source and result, uint8 (H, W, 3) each, or raises OSError or
            ValueError with the cause.
        metrics: to compute.
        method: what is scored, in words.
        command: the command line, for the table.
        on_edit: called with the key of each edit that has ended.
    """
    scores, failures = [], []
    for sample in samples:
        try:
            source, result = pictures(sample)
            result = result_panel(result, source)
            if sample.mask.shape != source.shape[:2]:
                raise ValueError(
                    f"the picture is {source.shape[:2]} and its mask {sample.mask.shape}"
                )
            values = {
                name: metric(source, result, sample.mask, sample.target)
                for name, metric in metrics.metrics.items()
            }
            scores.append(EditScore(sample.key, sample.kind, values))
        except (OSError, ValueError) as error:
            failures.append(f"{sample.key}: {error}")
        on_edit(sample.key)
    return PieBenchTable(command, method, tuple(scores), metrics.missing, tuple(failures))
