"""Stable Diffusion 3 and FLUX through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from dehaze.commands import main
from dehaze.inversion import FlowTable, InversionResult

PROMPTS = ("--source", "a street with haze", "--target", "a street with snow")


# FLUX goes the same way here.
@pytest.fixture(params=["stable_diffusion_3", pytest.param("flux", marks=pytest.mark.slow)])
def flow_model(request: pytest.FixtureRequest) -> Path:
    """A folder with a tiny random model of flow matching."""
    folder: Path = request.getfixturevalue(request.param)
    return folder


@pytest.fixture
def picture(tmp_path: Path, photo: NDArray[np.float32]) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray((255 * photo).astype(np.uint8)).save(path)
    return path


def call(*arguments: Any, code: int = 0) -> Result:
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert done.exit_code == code, done.output
    return done


def pixels(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path))


def test_a_photo_is_inverted_and_edited(flow_model: Path, picture: Path) -> None:
    saved, edited = picture.parent / "photo.safetensors", picture.parent / "edited.png"
    settings = ("--model", flow_model, "--steps", 2)
    call("invert", picture, "-o", saved, "--prompt", PROMPTS[1], *settings)
    assert isinstance(InversionResult.load(saved).table, FlowTable)
    done = call(
        "edit", picture, *PROMPTS, "--inversion", saved, "--model", flow_model, "-o", edited, "-v"
    )
    # Without --attention: one step of two follows the source, and is evaluated under it.
    assert "3 network evaluations" in done.stdout
    assert pixels(edited).shape == (40, 60, 3)
    assert not np.array_equal(pixels(edited), pixels(picture))


def test_a_photo_is_dehazed_and_its_word_shown(flow_model: Path, picture: Path) -> None:
    out, settings = picture.parent / "out", ("--model", flow_model, "--steps", 2)
    call("run", picture, "-o", out, *settings, "--prompt", PROMPTS[1])
    assert pixels(out / "photo.png").shape == (40, 60, 3)
    call("attention", picture, "--prompt", PROMPTS[1], "--word", "haze", *settings, "-o", out)
    heat = np.load(out / "photo.png.haze.npy")
    assert heat.shape == (40, 60)
    assert 0.0 < heat.min() < heat.max() < 1.0


def test_ddim_settings_are_refused_for_a_flow_at_once(
    stable_diffusion_3: Path, picture: Path
) -> None:
    settings = ("--model", stable_diffusion_3, "-o", picture.parent / "out.png")
    done = call("edit", picture, *PROMPTS, "--eta", 0.5, *settings, code=2)
    assert "eta is 0.5: it is the noise of DDIM's steps" in done.output
    out = ("--model", stable_diffusion_3, "-o", picture.parent / "out")
    done = call("run", picture, *out, "--solver", "renoise-regularised", code=2)
    assert "solver renoise-regularised is not made for a model of flow matching" in done.output
    assert not (picture.parent / "out" / "photo.png").exists()


def test_info_names_every_part(stable_diffusion_3: Path) -> None:
    facts = json.loads(call("models", "info", stable_diffusion_3, "--json").stdout)
    assert facts["prediction"] == "velocity"
    assert facts["scheduler"] == "FlowMatchEulerDiscreteScheduler; the steps are Euler's"
    assert facts["scheduler_ignored"] == {}
    assert facts["text_encoder_3"].startswith("T5EncoderModel, ")
