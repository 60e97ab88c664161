"""The page of an evaluation: every picture under every method, with its scores."""

from __future__ import annotations

from collections.abc import Iterable

from dehaze.datasets import Sample
from dehaze.eval.methods import Method
from dehaze.eval.records import Evaluation, Record, Row
from dehaze.eval.runner import EvaluationSet, Runner
from dehaze.eval.sheet import fitted, focus_of, output_picture
from dehaze.eval.tables import column_of
from dehaze.report import Column, Entry, Layer, Report, thumbnail

TRUTH = "ground truth"

Place = tuple[str, str, str]


def report_of_evaluation(runner: Runner, evaluation: Evaluation) -> Report:
    """The report of an evaluation.

    The hazy picture stands left of the slider. Right of it stands the method that the evaluation is
    about, or another one, or the ground truth.
    """
    shown = [method for method in runner.methods if not method.is_ceiling]
    focus = focus_of(runner.methods)
    shown.sort(key=lambda method: (method.name != "hazy", method is not focus))
    records = {
        (record.subset, record.image, record.method): record for record in evaluation.records
    }
    entries = [
        _entry(runner, part, sample, shown, records)
        for part in runner.sets
        for sample in part.samples
    ]
    entries += [Entry(line, status="failed", error=line) for line in evaluation.unusable]
    return Report(
        title=f"dehaze: {', '.join(part.name for part in runner.sets)}",
        summary=runner.protocol.label,
        settings=_settings(runner),
        columns=_columns(shown, evaluation),
        entries=tuple(entries),
        table=_table(evaluation),
    )


def _columns(shown: Iterable[Method], evaluation: Evaluation) -> tuple[Column, ...]:
    metrics = dict.fromkeys(name for record in evaluation.records for name in record.values)
    columns = []
    for method in shown:
        for metric in metrics:
            heading, digits = column_of(metric)
            columns.append(Column(_key(method.name, metric), f"{method.name} {heading}", digits))
    return tuple(columns)


def _key(method: str, metric: str) -> str:
    return f"{method} {metric}"


def _entry(
    runner: Runner,
    part: EvaluationSet,
    sample: Sample,
    shown: Iterable[Method],
    records: dict[Place, Record],
) -> Entry:
    layers: list[Layer] = []
    values: dict[str, float] = {}
    notes: list[str] = []
    errors: list[str] = []
    size = None
    for method in shown:
        record = records[part.name, sample.name, method.name]
        if record.error is not None:
            errors.append(f"{method.name}: {record.error}")
            continue
        picture = output_picture(runner, part, sample, method)
        if picture is not None:
            layers.append(Layer(method.name, thumbnail(picture)))
        size = (record.width, record.height)
        values.update(
            {
                _key(method.name, name): value
                for name, value in record.values.items()
                if value is not None
            }
        )
        notes += [note for note in record.notes if note not in notes]
    if sample.clear is not None and layers:
        truth = fitted(runner, sample.load().clear)
        if truth is not None:
            layers.append(Layer(TRUTH, thumbnail(truth)))
    name = sample.name if len(runner.sets) == 1 else f"{part.name}/{sample.name}"
    return Entry(
        name,
        status="failed" if errors else "done",
        layers=tuple(layers),
        values=values,
        notes=tuple(notes),
        error="; ".join(errors) or None,
        size=size,
    )


def _settings(runner: Runner) -> dict[str, str]:
    return {
        "command": runner.command,
        "seed": str(runner.seed),
        **{method.name: method.title for method in runner.methods},
    }


def _table(evaluation: Evaluation) -> tuple[tuple[str, ...], ...]:
    metrics = evaluation.metrics
    headings = ("subset", "method", "images", "failed")
    return (
        (*headings, *(column_of(name)[0] for name in metrics)),
        *(
            (
                row.subset,
                row.method,
                str(row.images),
                str(row.failed),
                *(_mean(row, name) for name in metrics),
            )
            for row in evaluation.rows
        ),
    )


def _mean(row: Row, name: str) -> str:
    found = row.statistics.get(name)
    if found is None or found.mean is None:
        return "-"
    return f"{found.mean:.{column_of(name)[1]}f}"
