from __future__ import annotations

import csv
import json
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dehaze.datasets import CaptionedPhoto
from dehaze.eval.inversion.captions import CaptionChoice
from dehaze.eval.inversion.methods import (
    InversionMethod,
)
from dehaze.eval.inversion.scores import Judges, score_inversion
from dehaze.eval.inversion.table import InversionTable, evaluate_inversion
from dehaze.eval.plots import PlotsMissingError
from dehaze.network import NonFiniteError
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
        judges=Judges(lpips=metric),
    )
    plain, exact = table.scores
    assert plain.lpips > exact.lpips >= 0.0
    assert f"| {plain.psnr_worst:.2f} | {plain.lpips:.4f} | " in table.markdown()
    # What does not iterate has neither iterations nor a tolerance.
    assert "| edict |  |  | 2.00 |" in table.markdown()
    assert "| ddim |  |  | 1.00 |" in table.markdown()
    columns = {line.count("|") for line in table.markdown().splitlines() if line.startswith("|")}
    assert len(columns) == 1


def test_captions_are_the_prompts_and_clip_judges_by_them(
    pipeline: DehazePipeline, photo: Array
) -> None:
    texts = ["a street with haze", "a city with dense haze"]
    seen: list[str] = []

    def agreement(picture: NDArray[np.uint8], prompt: str) -> float:
        assert picture.dtype == np.uint8
        seen.append(prompt)
        return 10.0 * len(seen) - 15.0

    photos = tuple(CaptionedPhoto(f"{text}.png", Path("x"), text) for text in texts)
    choice = CaptionChoice(photos, 3, {"b.png": "too long"}, ("c.png",), ("d.png",), 4)
    made = evaluate_inversion(
        pipeline,
        [photo, photo],
        [InversionMethod("ddim")],
        steps=(2,),
        guidance_scales=(1.0,),
        command="",
        captions=choice,
        judges=Judges(clip=agreement),
    )
    # The codec's pictures first, then the reconstructions; a score is never below 0.
    assert seen == texts * 2
    assert (made.ceiling.clip, made.scores[0].clip) == (2.5, 20.0)
    own = score_inversion(pipeline, [photo, photo], InversionMethod("ddim"), steps=2)
    assert own.psnr != made.scores[0].psnr
    text = made.markdown()
    assert text.startswith("2 photos, each under its caption, at the working size")
    assert "CLIPScore 2.5." in text
    assert "| CLIPScore | latent error |" in text
    for line in (
        "- 2 of 3 photos with a caption that can be read.",
        "- left out: 1 photo whose caption the model cannot read: b.png (too long).",
        "- left out: 1 photo without a caption: c.png.",
        "- 1 captions name no photo: d.png.",
        "- 4 further captions are not used: a photo's first is its prompt.",
    ):
        assert f"\n{line}\n" in text


def test_bad_settings_are_refused_before_any_row(
    pipeline: DehazePipeline, photo: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    def distilled(what: str) -> None:
        raise ValueError(f"{what} is of classifier-free guidance")

    monkeypatch.setattr(pipeline, "check_classifier_free", distilled)
    seen: list[Any] = []
    for method, cause in (
        (InversionMethod("ddim", mode="null-text"), "guidance_scale above 1"),
        (InversionMethod("bdia", mode="direct"), "bdia inverts another"),
        (InversionMethod("ddim", mode="direct"), "mode direct is of classifier-free guidance"),
        (InversionMethod("rf-solver"), "not made for a model of DDIM"),
    ):
        with pytest.raises(ValueError, match=cause):
            evaluate_inversion(
                pipeline,
                [photo],
                [InversionMethod("ddim"), method],
                steps=(2,),
                guidance_scales=(1.0, 2.0) if "above 1" in cause else (2.0, 1.0),
                command="",
                on_score=seen.append,
            )
    assert seen == []


def test_a_row_that_diverges_is_named_and_the_others_are_scored(
    pipeline: DehazePipeline, photo: Array
) -> None:
    def scored(*guidance: float) -> InversionTable:
        methods = [InversionMethod("fixed-point", {"max_iterations": 1}), InversionMethod("ddim")]
        return evaluate_inversion(
            pipeline, [photo], methods, steps=(2,), guidance_scales=guidance, command=""
        )

    # Two rows at once are guided.
    hook = pipeline.unet.register_forward_pre_hook(
        lambda unet, arguments: (
            (arguments[0] * (inf if len(arguments[0]) == 2 else 1.0), *arguments[1:])
        )
    )
    try:
        table = scored(1.0, 2.0)
        with pytest.raises(NonFiniteError, match="diverge"):
            scored(2.0)
    finally:
        hook.remove()
    assert [score.family for score in table.scores] == ["fixed-point", "ddim"]
    first, second = table.failed
    assert first.startswith("2 steps, guidance 2, fixed-point, at most 1 iteration: ")
    assert second.startswith("2 steps, guidance 2, ddim: ")
    assert "the latents diverge: try less guidance" in first
    assert f"- left out: {first}\n" in table.markdown()


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
    # A row of panels for each number of steps: evaluations and seconds.
    width, height = Image.open(written[3]).size
    assert width > 1000
    assert height == round(2 * 3.6 * 110)


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
