"""Files of a finished evaluation: results.json, scores.csv, table.md and sheet.png."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from dehaze.datasets import Sample, read_rgb
from dehaze.eval.methods import HazyInput, Method, ResultFolder
from dehaze.eval.published import published_for
from dehaze.eval.records import Evaluation, Record, Row, records_as_csv, versions
from dehaze.eval.runner import EvaluationSet, Runner
from dehaze.photos import write_bytes

COLUMNS = {
    "psnr": ("PSNR (dB)", 2),
    "ssim": ("SSIM", 4),
    "ciede2000": ("CIEDE2000", 2),
    "mse": ("MSE", 1),
    "attention_spearman": ("attention, Spearman", 3),
    "transmission_mae": ("t, mean abs. error", 3),
    "transmission_bias": ("t, bias", 3),
    "airlight_mae": ("A, mean abs. error", 3),
    "airlight_angle": ("A, angle (degrees)", 1),
}
"""Heading and number of digits of every metric that has its own; others get four digits."""

_CELL = (280, 210)
_LABEL = 28


def write_results(runner: Runner, evaluation: Evaluation) -> None:
    """Write the four result files into the run's folder, each whole or not at all."""
    write_bytes(runner.out / "results.json", _results_json(runner, evaluation))
    write_bytes(runner.out / "scores.csv", records_as_csv(evaluation.records).encode())
    write_bytes(runner.out / "table.md", markdown_table(runner, evaluation).encode())
    sheet = picture_sheet(runner, evaluation)
    if sheet is not None:
        buffer = io.BytesIO()
        sheet.save(buffer, format="PNG")
        write_bytes(runner.out / "sheet.png", buffer.getvalue())


def _results_json(runner: Runner, evaluation: Evaluation) -> bytes:
    content = {
        "protocol": {"label": runner.protocol.label, **runner.protocol.settings()},
        "command": runner.command,
        "seed": runner.seed,
        "versions": versions(),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "methods": {method.name: method.settings() for method in runner.methods},
        "subsets": {
            part.name: {
                "scored": len(part.samples),
                "present": len(part.dataset),
                "oddities": {kind.meaning: count for kind, count in part.dataset.counts().items()},
                "messages": [oddity.message for oddity in part.dataset.oddities],
            }
            for part in runner.sets
        },
        "rows": [asdict(row) for row in evaluation.rows],
        "failures": evaluation.failures,
        "images": [asdict(record) for record in evaluation.records],
    }
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def markdown_table(runner: Runner, evaluation: Evaluation) -> str:
    """The table with everything that is needed to read and to repeat it.

    Nothing in it depends on when or how often the run was interrupted.
    """
    metrics = list(dict.fromkeys(name for row in evaluation.rows for name in row.statistics))
    headings = ["subset", "method", "images", "failed"]
    headings += [COLUMNS.get(name, (name, 4))[0] for name in metrics]
    lines = [
        f"**{runner.protocol.label}**",
        "",
        "Mean ± population standard deviation over the images that could be scored.",
        "",
        _line(headings),
        _line(["---", "---", *["---:"] * (len(headings) - 2)]),
    ]
    for row in evaluation.rows:
        cells = [row.subset, _row_label(row), str(row.images), str(row.failed)]
        lines.append(_line(cells + [_statistic_cell(row, name) for name in metrics]))
    lines += ["", *_explanations(runner, evaluation), *_published_lines(runner)]
    if runner.command:
        lines += ["", "Command:", "", "```", runner.command, "```"]
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines += ["", f"Seed {runner.seed}; {packages}.", ""]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _row_label(row: Row) -> str:
    return f"{row.method} (ORACLE)" if row.is_oracle else row.method


def _statistic_cell(row: Row, name: str) -> str:
    found = row.statistics.get(name)
    digits = COLUMNS.get(name, (name, 4))[1]
    identical = f" ({row.identical} infinite)" if name == "psnr" and row.identical else ""
    if found is None or found.mean is None or found.deviation is None:
        return "infinite" if identical else "-"
    return f"{found.mean:.{digits}f} ± {found.deviation:.{digits}f}{identical}"


def _explanations(runner: Runner, evaluation: Evaluation) -> list[str]:
    lines = [f"- `{method.name}`: {method.title}" for method in runner.methods]
    for part in runner.sets:
        if len(part.samples) < len(part.dataset):
            lines.append(
                f"- {part.name}: {len(part.samples)} of {len(part.dataset)} images, evenly spread"
            )
        lines += [
            f"- {part.name}: {kind.meaning}: {count}"
            for kind, count in part.dataset.counts().items()
        ]
    if evaluation.failures:
        lines.append(f"- {len(evaluation.failures)} failures, listed in results.json")
    return lines


def _published_lines(runner: Runner) -> list[str]:
    rows = [published for part in runner.sets for published in published_for(part.name)]
    if not rows:
        return []
    lines = [
        "",
        "Published on the whole sets, not run here; each under its source's own protocol:",
        "",
        _line(["subset", "method", "PSNR (dB)", "SSIM", "kind", "protocol", "source"]),
        _line(["---", "---", "---:", "---:", "---", "---", "---"]),
    ]
    for row in rows:
        numbers = [f"{row.psnr:.2f}", f"{row.ssim:g}"]
        lines.append(_line([row.subset, row.method, *numbers, row.kind, row.protocol, row.source]))
    return lines


def focus_of(methods: Sequence[Method]) -> Method:
    """The method whose best, median and worst are shown: the first that is no companion row."""
    own = [method for method in methods if not (method.is_ceiling or isinstance(method, HazyInput))]
    featured = [method for method in own if method.name != "dcp"]
    return (featured or own or list(methods))[0]


def picture_sheet(runner: Runner, evaluation: Evaluation) -> Image.Image | None:
    """Best, median and worst image of every data set, all methods side by side.

    Ordered by the focus method's PSNR or, without ground truth, by its first perceptual metric.

    Returns:
        The sheet, or None where nothing could be ordered.
    """
    focus = focus_of(runner.methods)
    shown = [method for method in runner.methods if not method.is_ceiling]
    by_place = {
        (record.subset, record.image, record.method): record for record in evaluation.records
    }
    lines: list[list[Image.Image]] = []
    for part in runner.sets:
        for rank, sample in _best_median_worst(runner, part, focus, evaluation.records):
            cells = []
            for method in shown:
                record = by_place[part.name, sample.name, method.name]
                pixels = output_picture(runner, part, sample, method)
                cells.append(_cell(pixels, f"{method.name} {_short_scores(record)}"))
            if sample.clear is not None:
                cells.append(_cell(fitted(runner, sample.load().clear), "ground truth"))
            lines.append(
                [_title_cell(f"{part.name}\n{rank} of {focus.name}\n{sample.name}"), *cells]
            )
    if not lines:
        return None
    columns = max(len(line) for line in lines)
    width, height = _CELL[0], _CELL[1] + _LABEL
    sheet = Image.new("RGB", (columns * width, len(lines) * height), "white")
    for row, line in enumerate(lines):
        for column, cell in enumerate(line):
            sheet.paste(cell, (column * width, row * height))
    return sheet


def _best_median_worst(
    runner: Runner, part: EvaluationSet, focus: Method, records: Sequence[Record]
) -> list[tuple[str, Sample]]:
    metric, lower_is_better = "psnr", False
    if not part.dataset.paired:
        if not runner.perceptual:
            return []
        metric, lower_is_better = runner.perceptual[0].name, runner.perceptual[0].lower_is_better
    samples = {sample.name: sample for sample in part.samples}
    quality = {
        record.image: float("inf") if record.identical else record.values.get(metric)
        for record in records
        if record.subset == part.name and record.method == focus.name and record.error is None
    }
    ranked = sorted(
        (name for name, value in quality.items() if value is not None),
        key=lambda name: (quality[name] or 0.0, name),
        reverse=not lower_is_better,
    )
    if not ranked:
        return []
    places = {"best": 0, "median": len(ranked) // 2, "worst": len(ranked) - 1}
    return [(rank, samples[ranked[index]]) for rank, index in places.items()]


def output_picture(
    runner: Runner, part: EvaluationSet, sample: Sample, method: Method
) -> NDArray[Any] | None:
    """What a method made of a sample, (H, W, 3), or None where there is no picture of it."""
    if isinstance(method, HazyInput):
        return fitted(runner, sample.load().hazy)
    path = runner.image_path(part.name, method, sample.name)
    if isinstance(method, ResultFolder):
        path = method.find(part.name, sample.name, sample.scene)
    if path is None:
        return None
    try:
        return fitted(runner, read_rgb(path).pixels)
    except (ValueError, OSError):
        return None


def fitted(runner: Runner, pixels: NDArray[np.uint8] | None) -> NDArray[Any] | None:
    """A picture at the size that the protocol scores it at."""
    return None if pixels is None else runner.protocol.fit(pixels)


def _short_scores(record: Record) -> str:
    if record.error is not None:
        return "failed"
    psnr, ssim = record.values.get("psnr"), record.values.get("ssim")
    if psnr is not None and ssim is not None:
        return f"{psnr:.2f} dB / {ssim:.3f}"
    return "identical" if record.identical else ""


def _title_cell(text: str) -> Image.Image:
    cell = Image.new("RGB", (_CELL[0], _CELL[1] + _LABEL), "white")
    ImageDraw.Draw(cell).multiline_text((10, 10), text, fill="black", font_size=16, spacing=6)
    return cell


def _cell(pixels: NDArray[Any] | None, label: str) -> Image.Image:
    cell = Image.new("RGB", (_CELL[0], _CELL[1] + _LABEL), "white")
    if pixels is not None:
        picture = Image.fromarray(np.asarray(pixels, dtype=np.uint8))
        picture = ImageOps.contain(picture, (_CELL[0] - 8, _CELL[1] - 4))
        cell.paste(picture, ((_CELL[0] - picture.width) // 2, 2))
    ImageDraw.Draw(cell).text((6, _CELL[1] + 4), label, fill="black", font_size=13)
    return cell


def result_files(out: Path) -> list[Path]:
    """The files that ``write_results`` makes, as far as they exist."""
    names = ("table.md", "scores.csv", "results.json", "sheet.png")
    return [out / name for name in names if (out / name).is_file()]
