"""``dehaze evaluate inversion``: what it prints, writes and refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from dehaze.commands import main
from dehaze.eval.inversion.scores import InversionScore, score_inversion
from dehaze.network import NonFiniteError


@pytest.fixture
def photos(tmp_path: Path, photo: NDArray[np.float32]) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, pixels in (("a", photo), ("b", photo[::-1])):
        Image.fromarray((255 * pixels).astype(np.uint8)).save(folder / f"{name}.png")
    return folder


def call(photos: Path, *arguments: object) -> Result:
    out = photos.parent / "out"
    settings = ["evaluate", "inversion", photos, "-o", out, *arguments]
    return CliRunner().invoke(main, list(map(str, settings)))


def test_it_prints_the_table_and_writes_four_files(photos: Path, random_model: Path) -> None:
    pytest.importorskip("matplotlib")
    done = call(
        photos,
        *("--model", random_model, "--steps", "2,3", "--guidance", "1,2", "--render", "haze"),
        *("--method", "ddim", "--method", "anderson:predictor=ife,iterations=2"),
    )
    assert done.exit_code == 0, done.output
    out = photos.parent / "out"
    assert (out / "inversion.md").read_text().strip() == done.stdout.strip()
    scores = json.loads((out / "inversion.json").read_text())["scores"]
    assert [(row["steps"], row["guidance_scale"], row["solver"]) for row in scores] == [
        (steps, guidance, solver)
        for steps in (2, 3)
        for guidance in (1.0, 2.0)
        for solver in ("ddim", "anderson")
    ]
    assert (out / "rendered/haze-0/hazy/a.png").is_file()
    for name in ("inversion.csv", "inversion.png"):
        assert (out / name).is_file()
        assert name in done.stderr


def test_a_row_that_diverges_costs_no_other_row(
    photos: Path, random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")

    def diverging(*arguments: Any, guidance_scale: float, **options: Any) -> InversionScore:
        if guidance_scale == 2.0:
            raise NonFiniteError("step 1 is not finite")
        return score_inversion(*arguments, guidance_scale=guidance_scale, **options)

    monkeypatch.setattr("dehaze.eval.inversion.table.score_inversion", diverging)
    settings = ("--model", random_model, "--steps", 2, "--method", "ddim")
    done = call(photos, *settings, "--guidance", "2,1")
    assert done.exit_code == 1, done.output
    assert "left out: 2 steps, guidance 2, ddim: step 1 is not finite" in done.stderr
    content = json.loads((photos.parent / "out" / "inversion.json").read_text())
    assert len(content["scores"]) == len(content["failed"]) == 1


def test_captions_are_prompts_and_what_is_left_out_is_named(
    photos: Path, random_model: Path, clip_model: Path
) -> None:
    pytest.importorskip("matplotlib")
    captions = photos.parent / "captions.tsv"
    captions.write_text("a.png\ta street with haze\nc.png\ta cat\n")
    settings = ("--model", random_model, "--steps", 2, "--captions", captions, "--method", "ddim")
    done = call(photos, *settings, "--clip", clip_model)
    assert done.exit_code == 1, done.output
    assert done.stdout.startswith("1 photo, each under its caption,")
    assert "left out: 1 photo without a caption: b.png" in done.stderr
    assert "1 captions name no photo: c.png" in done.stderr
    content = json.loads((photos.parent / "out" / "inversion.json").read_text())
    assert content["captions"]["photos"] == {"a.png": "a street with haze"}
    assert content["captions"]["missing"] == ["c.png"]
    assert 0.0 <= content["scores"][0]["clip"] <= 100.0
    captions.write_text("a.png\ta street with haze\nb.png\ta cat\n")
    missing = call(photos, *settings, "--clip", photos.parent / "none")
    assert missing.exit_code == 2
    assert "is not on this machine" in missing.stderr


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (("--captions", "none.tsv"), "none.tsv: cannot be read"),
        (("--method", "ddim:mode=null-text"), "guidance_scale above 1"),
        (("--method", "newton"), "fixed-point"),
        (("--steps", "ten"), "no list of numbers"),
        (("--steps", "0"), "positive"),
        (("--guidance", "2,nan"), "positive"),
        (("--guidance", "inf"), "positive"),
        (("--model", "no/such/model/here"), "no such folder"),
        (("--steps", "2000"), "1 to 1000"),
        (("--method", "edict:mode=direct", "--steps", "2"), "edict inverts another"),
    ],
)
def test_bad_input_is_refused_by_name(
    photos: Path, random_model: Path, arguments: tuple[str, ...], cause: str
) -> None:
    model = () if "--model" in arguments else ("--model", random_model)
    done = call(photos, *model, *arguments)
    assert done.exit_code == 2
    assert cause in done.stderr
    assert not (photos.parent / "out").exists()


def test_a_folder_without_pictures_is_named(tmp_path: Path) -> None:
    done = call(tmp_path / "missing")
    assert done.exit_code == 2
    assert "missing" in done.stderr


def test_missing_lpips_weights_are_named_before_any_work(
    photos: Path, random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    done = call(photos, "--model", random_model, "--lpips")
    assert done.exit_code == 2
    assert "dehaze-diffusion[iqa]" in done.stderr
    assert not (photos.parent / "out").exists()
