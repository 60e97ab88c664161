"""``dehaze evaluate appearance``: the files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from dehaze.commands import main


@pytest.fixture
def folder(tmp_path: Path, photo: NDArray[np.float32]) -> Path:
    made = tmp_path / "clear"
    made.mkdir()
    for name in ("a", "b"):
        Image.fromarray((255 * photo).astype(np.uint8)).save(made / f"{name}.png")
    return made


def call(folder: Path, model: Path, *arguments: object) -> Result:
    out = folder.parent / "out"
    settings = ["evaluate", "appearance", folder, "-o", out, "--model", model, *arguments]
    return CliRunner().invoke(main, list(map(str, settings)))


def test_the_table_is_written_and_printed(folder: Path, random_model: Path) -> None:
    arguments = ("--words", "night,black and white", "--method", "swap", "--method", "refine")
    done = call(folder, random_model, *arguments, "--limit", 1)
    assert done.exit_code == 0, done.output
    content = json.loads((folder.parent / "out" / "appearance.json").read_text())
    assert content["photos"] == 1
    assert [row["method"] for row in content["means"]] == 2 * ["left alone", "swap", "refine"]
    assert (folder.parent / "out" / "appearance.md").read_text() in done.stdout
    again = call(folder, random_model, *arguments, "--limit", 1)
    assert again.stdout == done.stdout


@pytest.mark.parametrize("size", [(10, 10), (50, 1), (1, 50)])
def test_a_photo_below_the_window_of_ssim_is_named(
    folder: Path, random_model: Path, size: tuple[int, int]
) -> None:
    Image.new("RGB", size).save(folder / "c.png")
    done = call(folder, random_model, "--words", "night", "--method", "swap", "--limit", 3)
    assert done.exit_code == 1
    named = f"c.png: is {size[0]}x{size[1]} pixels, and SSIM's window takes 11x11"
    assert f"left out: {folder}/{named}" in done.stderr
    assert done.stdout.startswith("2 of 3 photos, each under each word")


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (("--words", "hail"), "night"),
        (("--method", "magic"), "refine"),
        (("--recovery", "x"), "none"),
    ],
)
def test_bad_input_is_refused_by_name(
    folder: Path, random_model: Path, arguments: tuple[str, ...], cause: str
) -> None:
    done = call(folder, random_model, *arguments)
    assert done.exit_code == 2
    assert cause in done.stderr
    assert not (folder.parent / "out").exists()


def test_a_folder_that_is_missing_is_named(tmp_path: Path, random_model: Path) -> None:
    done = call(tmp_path / "missing", random_model)
    assert done.exit_code == 2
    assert "missing" in done.stderr
