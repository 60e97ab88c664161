"""``dehaze.eval.inversion``: what is measured, what it costs, and what is written."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dehaze.datasets import read_rgb
from dehaze.eval.inversion import (
    InversionEvaluationError,
    InversionMethod,
    InversionTable,
    codec_ceiling,
    evaluate_inversion,
    family,
    parse_inversion_method,
    score_inversion,
)
from dehaze.eval.plots import PlotsMissingError
from dehaze.inversion import best_at_equal_cost
from dehaze.models.needs import ModelDescription
from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.pipelines.pictures import as_pixels

Array = NDArray[np.float32]

MODEL = ModelDescription(pixels_per_latent=8, size_multiple=8, short_side=64)


def test_a_solved_inversion_scores_higher_and_costs_more(
    pipeline: DehazePipeline, photo: Array
) -> None:
    plain = score_inversion(pipeline, [photo], InversionMethod("ddim"), steps=4)
    solved = score_inversion(
        pipeline,
        [photo, photo[:, ::-1]],
        InversionMethod("anderson", {"max_iterations": 30}),
        steps=4,
    )
    assert plain.nfe_per_step == 1.0
    assert np.isnan(plain.converged)
    assert np.isnan(plain.contractive)
    assert solved.psnr > plain.psnr + 20
    assert solved.latent_error < 0.1 * plain.latent_error
    assert solved.psnr_worst <= solved.psnr
    assert solved.nfe_per_step > 2
    assert np.isnan(solved.converged)
    checked = InversionMethod(
        "anderson", {"max_iterations": 30, "criterion": "residual", "tolerance": 1e-5}
    )
    assert score_inversion(pipeline, [photo], checked, steps=4).converged == 1.0


def test_guidance_costs_twice_and_is_undone_by_guidance(
    pipeline: DehazePipeline, photo: Array
) -> None:
    method = InversionMethod("fixed-point", {"max_iterations": 3})
    once, twice = (
        score_inversion(pipeline, [photo], method, steps=4, guidance_scale=guidance)
        for guidance in (1.0, 2.0)
    )
    assert twice.nfe_per_step == 2 * once.nfe_per_step == 6.0
    solved = InversionMethod("anderson", {"max_iterations": 30})
    assert score_inversion(pipeline, [photo], solved, steps=4, guidance_scale=2.0).psnr > 60


def test_codec_loss_bounds_every_solver(
    pipeline: DehazePipeline, photo: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = DehazePipeline.encode
    monkeypatch.setattr(
        DehazePipeline, "encode", lambda self, pixels: encode(self, pixels).mul(8).round() / 8
    )
    ceiling = codec_ceiling(pipeline, [photo])
    assert 20 < ceiling < 60
    solved = InversionMethod("anderson", {"max_iterations": 30})
    assert score_inversion(pipeline, [photo], solved, steps=4).psnr == pytest.approx(ceiling, abs=1)


def test_a_mode_inverts_unguided_and_counts_its_preparation(
    pipeline: DehazePipeline, photo: Array
) -> None:
    settings = {"steps": 4, "guidance_scale": 3.0}
    rows = {
        mode: score_inversion(
            pipeline,
            [photo],
            InversionMethod("anderson", {"max_iterations": 30}, mode=mode),
            **settings,
        )
        for mode in ("plain", "negative-prompt", "direct")
    }
    assert rows["plain"].psnr < 40 < rows["negative-prompt"].psnr
    assert rows["direct"].psnr > 60
    assert rows["plain"].nfe_per_step == rows["negative-prompt"].nfe_per_step
    assert rows["direct"].nfe_per_step == pytest.approx(rows["plain"].nfe_per_step + 2)


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
    columns = {line.count("|") for line in table.markdown().splitlines() if line.startswith("|")}
    assert len(columns) == 1


def test_best_is_what_the_model_reconstructs_best_with(
    pipeline: DehazePipeline, bundled: DehazePipeline, photo: Array
) -> None:
    best = parse_inversion_method("best")
    for steps in (10, 50):
        fitted = best.settings(bundled.description, steps=steps, guidance_scale=1.0)
        assert fitted == replace(best_at_equal_cost(steps), spacing="noisy-end")
    # Nothing was fitted on the random model.
    own = best.settings(pipeline.description, steps=4, guidance_scale=1.0)
    assert own == pipeline.description.inversion.changed(steps=4)
    few = parse_inversion_method("best:iterations=3")
    assert few.settings(bundled.description, steps=4, guidance_scale=2.0).max_iterations == 3
    assert score_inversion(bundled, [photo], best, steps=4).nfe_per_step <= 7


@pytest.fixture(scope="module")
def examples() -> list[Array]:
    folder = Path(__file__).resolve().parents[2] / "examples"
    return [as_pixels(read_rgb(path).pixels) for path in sorted(folder.glob("*_haze.jpg"))[:2]]


@pytest.mark.slow
def test_best_reaches_ten_picard_iterations_for_a_sixth(
    bundled: DehazePipeline, examples: list[Array]
) -> None:
    best, picard = (
        score_inversion(bundled, examples, parse_inversion_method(method), steps=10)
        for method in ("best", "fixed-point:iterations=10")
    )
    assert picard.nfe_per_step > 9.0
    assert best.nfe_per_step <= 1.6
    assert best.psnr >= picard.psnr - 0.1


@pytest.mark.slow
def test_null_text_helps_on_the_bundled_model(
    bundled: DehazePipeline, examples: list[Array]
) -> None:
    plain, held = (
        score_inversion(
            bundled,
            examples[:1],
            parse_inversion_method(f"best:mode={mode}"),
            steps=10,
            guidance_scale=3.0,
        )
        for mode in ("plain", "null-text")
    )
    assert plain.psnr < 20.0
    assert held.psnr > plain.psnr + 3.0


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


def test_a_method_is_read_with_its_settings() -> None:
    method = parse_inversion_method(
        "anderson:predictor=ife,criterion=certificate,iterations=7,tolerance=1e-3"
    )
    assert method == InversionMethod(
        "anderson",
        {
            "predictor": "ife",
            "criterion": "certificate",
            "max_iterations": 7,
            "tolerance": 1e-3,
        },
    )
    settings = method.settings(MODEL, steps=9, guidance_scale=2.0)
    assert (settings.steps, settings.guidance_scale, settings.max_iterations) == (9, 2.0, 7)
    assert family(settings, "") == "ife + anderson, until certificate"
    assert parse_inversion_method("ddim") == InversionMethod("ddim")
    held = parse_inversion_method("ddim:mode=direct")
    assert held.settings(MODEL, steps=9, guidance_scale=2.0).guidance_scale == 1.0


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("newton", r"newton.*fixed-point"),
        ("ddim:predictor=oracle", r"oracle.*ife"),
        ("ddim:criterion=luck", r"luck.*certificate"),
        ("ddim:colour=red", r"colour.*iterations"),
        ("ddim:relaxation=yoga", r"yoga.*wiener"),
        ("ddim:mode=magic", r"magic.*plain, null-text"),
        ("ddim:iterations=many", "no number"),
        ("ddim:iterations=0", "at least 1"),
        ("ddim:tolerance=0", "tolerance is 0"),
        ("ddim:iterations=3", "no effect with the solver 'ddim'"),
        ("edict:predictor=ife", "no effect with the solver 'edict'"),
    ],
)
def test_a_wrong_method_is_named(text: str, cause: str) -> None:
    with pytest.raises(InversionEvaluationError, match=cause):
        parse_inversion_method(text)
