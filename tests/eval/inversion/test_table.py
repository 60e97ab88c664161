from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dehaze.eval.inversion.methods import (
    InversionMethod,
)
from dehaze.eval.inversion.table import InversionTable, evaluate_inversion
from dehaze.eval.plots import PlotsMissingError
from dehaze.pipelines.dehaze import DehazePipeline

Array = NDArray[np.float32]


def test_lpips_is_measured_where_it_is_given(pipeline: DehazePipeline, photo: Array) -> None:
    def distance(output: Array, clear: Array) -> float:
        assert output.shape == clear.shape
        assert clear.max() > 100
        return float(np.abs(output - clear).mean())

    metric: Any = distance
    table = evaluate_inversion(
        pipeline,
        [photo],
        [InversionMethod("ddim"), InversionMethod("edict")],
        steps=(4,),
        guidance_scales=(1.0,),
        command="",
        lpips=metric,
    )
    plain, exact = table.scores
    assert plain.lpips > exact.lpips >= 0.0
    assert f"| {plain.psnr_worst:.2f} | {plain.lpips:.4f} | " in table.markdown()
    # What does not iterate has neither iterations nor a tolerance.
    assert "| edict |  |  | 2.00 |" in table.markdown()
    assert "| ddim |  |  | 1.00 |" in table.markdown()
    columns = {line.count("|") for line in table.markdown().splitlines() if line.startswith("|")}
    assert len(columns) == 1


@pytest.fixture
def table(pipeline: DehazePipeline, photo: Array) -> InversionTable:
    seen: list[Any] = []
    made = evaluate_inversion(
        pipeline,
        [photo],
        [
            InversionMethod("ddim"),
            InversionMethod("fixed-point", {"predictor": "ife", "max_iterations": 2}),
        ],
        steps=(2, 4),
        guidance_scales=(1.0,),
        command="dehaze evaluate inversion photos",
        on_score=seen.append,
    )
    assert tuple(seen) == made.scores
    return made


def test_four_files_say_the_same(table: InversionTable, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    written = table.write(tmp_path / "out")
    assert [path.name for path in written] == [
        f"inversion.{suffix}" for suffix in ("json", "csv", "md", "png")
    ]
    content = json.loads(written[0].read_text())
    assert content["photos"] == 1
    with written[1].open(newline="") as file:
        lines = list(csv.DictReader(file))
    text = written[2].read_text()
    assert len(lines) == len(content["scores"]) == len(table.scores) == 4
    for row, line, score in zip(content["scores"], lines, table.scores, strict=True):
        assert row["psnr"] == float(line["psnr"]) == score.psnr
        assert (row["solver"], row["steps"]) == (score.settings.solver, score.settings.steps)
        assert f"| {score.nfe_per_step:.2f} | {score.psnr:.2f} |" in text
    assert content["scores"][0]["contractive"] is None
    assert "`dehaze evaluate inversion photos`" in text
    assert Image.open(written[3]).size[0] > 300


def test_the_same_table_is_drawn_alike(table: InversionTable) -> None:
    pytest.importorskip("matplotlib")
    assert table.plot() == table.plot()


def test_without_matplotlib_the_cure_is_named(
    table: InversionTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(PlotsMissingError, match=r"dehaze-diffusion\[plots\]"):
        table.write(tmp_path / "out")
    assert not (tmp_path / "out").exists()
