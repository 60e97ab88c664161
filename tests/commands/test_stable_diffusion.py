"""Models of every shape through the command line: run, invert, edit, attention, interpolate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from original_format import save_as_one_file
from PIL import Image

from dehaze.commands import main
from dehaze.inversion import InversionResult


@pytest.fixture
def picture(tmp_path: Path, photo: NDArray[np.float32]) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray((255 * photo).astype(np.uint8)).save(path)
    return path


def call(*arguments: Any) -> Result:
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return done


def pixels(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path))


def test_one_file_does_what_its_folder_does(stable_diffusion: Path, picture: Path) -> None:
    file = save_as_one_file(stable_diffusion, picture.parent / "model.safetensors")
    made = []
    for model in (stable_diffusion, file):
        out = picture.parent / f"out-{len(made)}"
        call("run", picture, "-o", out, "--model", model, "--steps", 2)
        call(
            "edit", picture, "--source", "a street with haze", "--target", "a street with snow",
            "--model", model, "--steps", 2, "-o", out / "edited.png",
        )  # fmt: skip
        made.append([pixels(out / name) for name in ("photo.png", "edited.png")])
    np.testing.assert_array_equal(made[0], made[1])
    assert "prediction" in call("models", "info", file).stdout


@pytest.mark.parametrize(
    "stable_diffusion", ["epsilon", pytest.param("xl", marks=pytest.mark.slow)], indirect=True
)
def test_every_command_runs(stable_diffusion: Path, picture: Path) -> None:
    out = picture.parent / "out"
    settings = ("--model", stable_diffusion, "--steps", 2)
    call("run", picture, "-o", out, *settings)
    assert pixels(out / "photo.png").shape == (40, 60, 3)

    saved = out / "photo.safetensors"
    prompts = ("--source", "a street with haze", "--target", "a street with snow")
    call("invert", picture, "-o", saved, "--prompt", prompts[1], "--attention", *settings)
    inversion = InversionResult.load(saved)
    assert inversion.trajectory.shape == (3, 1, 4, 16, 24)

    edited = out / "edited.png"
    done = call(
        "edit", picture, *prompts, "--inversion", saved, "--model", stable_diffusion,
        "-o", edited, "-v",
    )  # fmt: skip
    assert "2 network evaluations" in done.stdout
    assert not np.array_equal(pixels(edited), pixels(picture))
    options = ("--guidance", 3, "--mode", "direct", "--blend", "street")
    call("edit", picture, *prompts, *options, *settings, "-o", edited, "--recovery", "none")
    call("edit", "--generate", 1, *prompts, *settings, "-o", out / "made.png")
    assert pixels(out / "made.png").shape == (32, 32, 3)

    call("attention", picture, "--prompt", prompts[1], "--word", "street", *settings, "-o", out)
    assert np.load(out / "photo.png.street.npy").shape == (40, 60)
    call("interpolate", picture, picture, "-n", 2, *settings, "-o", out / "path")
    assert pixels(out / "path" / "nao-01.png").shape == (32, 48, 3)
