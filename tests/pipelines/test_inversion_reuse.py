"""An inversion is used with its own photo, model and settings, or refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from dehaze.commands import main
from dehaze.inversion import InversionMismatchError, InversionResult
from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.pipelines.edit import EditPipeline
from dehaze.pipelines.interpolate import InterpolatePipeline

Array = NDArray[np.float32]
PROMPT = "a photo with haze"


@pytest.fixture
def other_photo(photo: Array) -> Array:
    return np.ascontiguousarray(photo[:, ::-1])


def test_the_same_photo_gives_the_same_result(pipeline: DehazePipeline, photo: Array) -> None:
    inversion = pipeline.invert(photo)
    assert inversion.origin is not None
    assert inversion.origin.sizes == ((40, 60),)
    assert inversion.origin.prompt == PROMPT
    again = pipeline(photo, inversion=inversion, num_inference_steps=inversion.settings.steps)
    np.testing.assert_array_equal(again.image, pipeline(photo).image)
    assert again.nfe < pipeline(photo).nfe


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"prompt": "a house with haze"}, "prompt"),
        ({"num_inference_steps": 9}, "steps"),
        ({"guidance_scale": 3.0}, "guidance_scale"),
        ({"solver": "edict"}, "solver"),
        ({"depth": 1}, "depth"),
    ],
)
def test_other_settings_are_refused(
    pipeline: DehazePipeline, photo: Array, options: dict[str, Any], named: str
) -> None:
    inversion = pipeline.invert(photo)
    with pytest.raises(InversionMismatchError, match=named):
        pipeline(photo, inversion=inversion, **options)


def test_another_photo_is_refused(
    pipeline: DehazePipeline, photo: Array, other_photo: Array
) -> None:
    inversion = pipeline.invert(photo)
    for wrong in (other_photo, photo[:, :58], photo[:20]):
        with pytest.raises(InversionMismatchError, match="photo"):
            pipeline(wrong, inversion=inversion)
    with pytest.raises(InversionMismatchError, match="another photo"):
        pipeline([photo, photo], inversion=pipeline.invert([photo, other_photo]))


def test_another_model_is_refused(pipeline: DehazePipeline, photo: Array) -> None:
    inversion = pipeline.invert(photo)
    with torch.no_grad():
        pipeline.unet.conv_in.bias.add_(1e-3)
    with pytest.raises(InversionMismatchError, match="another model"):
        pipeline(photo, inversion=inversion)


def test_the_inversions_own_prompt_is_taken(pipeline: DehazePipeline, photo: Array) -> None:
    inversion = pipeline.invert(photo, "a house with haze")
    expected = pipeline(photo, "a house with haze").image
    np.testing.assert_array_equal(pipeline(photo, inversion=inversion).image, expected)
    with pytest.raises(InversionMismatchError, match="a photo with haze"):
        pipeline.word_attention(photo, inversion, PROMPT, "haze")


def test_an_edit_refuses_another_source(
    random_model: Path, photo: Array, other_photo: Array
) -> None:
    pipe = EditPipeline.from_pretrained(random_model)
    pipe.set_progress_bar_config(disable=True)
    inversion = pipe.invert(photo, PROMPT)
    with pytest.raises(InversionMismatchError, match="prompt"):
        pipe(photo, "a house with haze", "a house", inversion=inversion)
    with pytest.raises(InversionMismatchError, match="another photo"):
        pipe(other_photo, PROMPT, "a photo", inversion=inversion)
    with pytest.raises(InversionMismatchError, match="prompt"):
        InterpolatePipeline.from_pipe(pipe)(inversion, inversion, "a house with haze", pictures=3)
    made = pipe.generate(PROMPT, generator=torch.Generator().manual_seed(1))
    with pytest.raises(InversionMismatchError, match="photo"):
        pipe(photo[:16, :16], PROMPT, "a photo", inversion=made)


def test_edit_refuses_a_saved_inversion_of_another_photo(
    random_model: Path, photo: Array, other_photo: Array, tmp_path: Path
) -> None:
    for name, pixels in (("a.png", photo), ("b.png", other_photo)):
        Image.fromarray((255 * pixels).astype(np.uint8)).save(tmp_path / name)
    saved = tmp_path / "a.safetensors"
    settings = ("--model", str(random_model), "--steps", "2", "--prompt", PROMPT)
    done = CliRunner().invoke(
        main, ["invert", str(tmp_path / "a.png"), "-o", str(saved), *settings]
    )
    assert done.exit_code == 0, done.output
    assert InversionResult.load(saved).origin is not None

    def edit(name: str, source: str) -> tuple[int, str]:
        arguments = ["edit", str(tmp_path / name), "--inversion", str(saved)]
        arguments += ["--source", source, "--target", "a photo", "--model", str(random_model)]
        done = CliRunner().invoke(main, [*arguments, "-o", str(tmp_path / "made.png")])
        return done.exit_code, done.stderr

    assert edit("a.png", PROMPT)[0] == 0
    for name, source, cause in (
        ("b.png", PROMPT, "another photo"), ("a.png", "a photo with fog", "prompt"),
    ):  # fmt: skip
        code, said = edit(name, source)
        assert code == 2
        assert cause in said
        assert "Traceback" not in said
    saved.write_bytes(saved.read_bytes()[:1000])
    code, said = edit("a.png", PROMPT)
    assert code == 2
    assert "cut short" in said


def test_an_inversion_is_a_start_for_the_next_frame(pipeline: DehazePipeline, photo: Array) -> None:
    settings = replace(pipeline.description.inversion, tolerance=0.02)
    alone = pipeline.invert(photo, settings=settings)
    started = pipeline.invert(photo, settings=settings, start=alone)
    assert started.trace.iterations.max() == 1
    assert started.trace.nfe.sum() < alone.trace.nfe.sum()
    smaller = pipeline.invert(photo[:, :48], settings=settings)
    with pytest.raises(ValueError, match="the start's latents"):
        pipeline.invert(photo, settings=settings, start=smaller)


def test_a_map_is_of_one_photo_of_the_inversions_size(
    pipeline: DehazePipeline, photo: Array
) -> None:
    with pytest.raises(InversionMismatchError, match="of another size"):
        pipeline.word_attention(np.ascontiguousarray(photo[:, :30]), pipeline.invert(photo))
    both = pipeline.invert([photo, photo[::-1]])
    with pytest.raises(InversionMismatchError, match="of several photos"):
        pipeline.word_attention(photo, both)
