"""The picture of a finished evaluation: best, median and worst image, all methods side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from dehaze.datasets import Sample, read_rgb
from dehaze.eval.methods import HazyInput, Method, ResultFolder
from dehaze.eval.records import Evaluation, Record
from dehaze.eval.runner import EvaluationSet, Runner

# Width and height of a picture in the sheet, and the height of the line below it, in pixels.
_CELL = (280, 210)
_LABEL = 28


def focus_of(methods: Sequence[Method]) -> Method:
    """The method whose best, median and worst are shown: the first beside hazy, dcp, ceilings."""
    own = [method for method in methods if not (method.is_ceiling or isinstance(method, HazyInput))]
    featured = [method for method in own if method.name != "dcp"]
    return (featured or own or list(methods))[0]


def picture_sheet(runner: Runner, evaluation: Evaluation) -> Image.Image | None:
    """Best, median and worst image of every data set, all methods side by side.

    The images are ordered by the PSNR of ``focus_of`` the methods or, without ground truth, by its
    first perceptual metric.

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
    """A method's result for a sample, (H, W, 3), or None where there is no picture."""
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
