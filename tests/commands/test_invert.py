"""``dehaze invert``: the file, the plots, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from dehaze.commands import main
from dehaze.inversion import InversionResult


@pytest.fixture
def picture(tmp_path: Path, photo: NDArray[np.float32]) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray((255 * photo).astype(np.uint8)).save(path)
    return path


def call(picture: Path, model: Path, *arguments: object) -> Result:
    out = picture.parent / "made" / "photo.safetensors"
    settings = ["invert", picture, "-o", out, "--model", model, *arguments]
    return CliRunner().invoke(main, list(map(str, settings)))


def test_the_file_holds_the_inversion_that_was_asked_for(picture: Path, random_model: Path) -> None:
    done = call(
        picture,
        random_model,
        *("--solver", "anderson", "--predictor", "ife", "--criterion", "certificate"),
        *("--steps", 5, "--depth", 3, "--iterations", 4, "--guidance", 2),
    )
    assert done.exit_code == 0, done.output
    loaded = InversionResult.load(picture.parent / "made" / "photo.safetensors")
    assert (loaded.table.steps, loaded.steps) == (5, 3)
    assert loaded.trace.residuals.shape[1] == 4
    assert loaded.attention
    assert f"3 steps, {int(loaded.trace.nfe.sum())} NFE" in done.stdout
    assert int(loaded.trace.nfe.sum()) == 2 * int(loaded.trace.iterations.sum())


def test_plots_are_drawn_beside_it(picture: Path, random_model: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = picture.parent / "plots"
    done = call(picture, random_model, "--steps", 3, "--plots", folder)
    assert done.exit_code == 0, done.output
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["contraction.png", "reconstruction.png", "residuals.png"]
    for name in names:
        assert np.asarray(Image.open(folder / name).convert("L")).std() > 5
        assert name in done.stdout


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (("--solver", "newton"), "fixed-point"),
        (("--predictor", "oracle"), "ife"),
        (("--criterion", "luck"), "certificate"),
        (("--depth", 9, "--steps", 4), "1 to 4"),
        (("--word", "rain"), "rain"),
        (("--model", "no/such/model"), "does not load"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_written(
    picture: Path, random_model: Path, arguments: tuple[object, ...], cause: str
) -> None:
    done = call(picture, random_model, *arguments)
    assert done.exit_code == 2
    assert cause in done.stderr
    assert not (picture.parent / "made").exists()


def test_a_photo_that_is_missing_is_named(tmp_path: Path, random_model: Path) -> None:
    done = call(tmp_path / "missing.jpg", random_model)
    assert done.exit_code == 2
    assert "missing.jpg" in done.stderr
