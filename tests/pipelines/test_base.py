"""Common to all pipelines: from_pipe, callbacks, and words that the model knows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from numpy.typing import NDArray

from dehaze.inversion import InversionResult, ScheduleError
from dehaze.models import ModelError
from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.pipelines.edit import EditPipeline
from dehaze.prompts import WordError

Array = NDArray[np.float32]
SOURCE, TARGET = "a street with haze", "a street with snow"


# --- from_pipe ----------------------------------------------------------------------------------


def test_from_pipe_shares_every_part_and_the_result(pipeline: DehazePipeline, photo: Array) -> None:
    editor = EditPipeline.from_pipe(pipeline)
    again = DehazePipeline.from_pipe(editor)
    for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        assert getattr(editor, name) is getattr(again, name) is getattr(pipeline, name)
    assert again.description == pipeline.description
    np.testing.assert_array_equal(
        again(photo, max_iterations=1).image, pipeline(photo, max_iterations=1).image
    )


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("stable_diffusion_1", StableDiffusionPipeline),
        ("stable_diffusion_xl", StableDiffusionXLPipeline),
    ],
)
def test_from_pipe_takes_diffusers_pipelines_and_gives_them_back(
    request: pytest.FixtureRequest, photo: Array, model: str, kind: Any
) -> None:
    folder: Path = request.getfixturevalue(model)
    theirs = kind.from_pretrained(folder)
    ours = DehazePipeline.from_pipe(theirs)
    assert ours.unet is theirs.unet
    loaded = DehazePipeline.from_pretrained(folder)
    assert ours.description == loaded.description
    for pipe in (ours, loaded):
        pipe.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 2, "max_iterations": 1, "recovery": "none"}
    # A scheduler of another class than the loader's, and the same table.
    np.testing.assert_allclose(
        ours(photo, **settings).image, loaded(photo, **settings).image, atol=1e-5
    )
    # diffusers wants its optional parts to be named, if only as None.
    absent = (
        {}
        if kind is StableDiffusionXLPipeline
        else dict.fromkeys(("safety_checker", "feature_extractor", "image_encoder"))
    )
    back = kind.from_pipe(ours, **absent)
    assert back.unet is theirs.unet
    back.set_progress_bar_config(disable=True)
    made = back(SOURCE, num_inference_steps=2, height=32, width=32, output_type="np").images
    assert made.shape == (1, 32, 32, 3)
    # Changes that diffusers made to the parts do not reach this pipeline.
    np.testing.assert_allclose(
        ours(photo, **settings).image, loaded(photo, **settings).image, atol=1e-5
    )


def test_from_pipe_keeps_the_settings(pipeline: DehazePipeline) -> None:
    own = DehazePipeline.from_pipe(pipeline)
    own.guidance_in_two_calls, own.attention_memory = True, 5
    editor = EditPipeline.from_pipe(own)
    assert (editor.guidance_in_two_calls, editor.attention_memory) == (True, 5)
    untouched = EditPipeline.from_pipe(pipeline)
    assert (untouched.guidance_in_two_calls, untouched.attention_memory) == (False, None)


def test_from_pipe_takes_other_parts_by_name(pipeline: DehazePipeline) -> None:
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    other = DehazePipeline.from_pipe(pipeline, scheduler=scheduler)
    assert other.scheduler is scheduler
    assert other.description == pipeline.description


def test_from_pipe_refuses_parts_that_cannot_be_inverted(pipeline: DehazePipeline) -> None:
    with pytest.raises(ModelError, match="DehazePipeline has no text_encoder"):
        EditPipeline.from_pipe(pipeline, text_encoder=None)
    with pytest.raises(ModelError, match="no part transformer"):
        EditPipeline.from_pipe(pipeline, transformer=torch.nn.Identity())
    with pytest.raises(ScheduleError, match="FlowMatchEuler"):
        EditPipeline.from_pipe(pipeline, scheduler=FlowMatchEulerDiscreteScheduler())


# --- callbacks ----------------------------------------------------------------------------------


@pytest.fixture
def inversion(pipeline: DehazePipeline, photo: Array) -> InversionResult:
    return pipeline.invert(photo, max_iterations=1)


def test_the_latents_that_a_callback_returns_count(
    pipeline: DehazePipeline, photo: Array, inversion: InversionResult
) -> None:
    def at_last_step(pipe: Any, step: int, timestep: int, tensors: Any) -> dict[str, Any]:
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 3 else {}

    changed = pipeline(
        photo, inversion=inversion, recovery="none", callback_on_step_end=at_last_step
    )
    # Latents of 0 are a grey picture.
    np.testing.assert_allclose(changed.image, 0.5, atol=1e-6)


def test_a_callback_early_on_changes_the_later_steps(
    pipeline: DehazePipeline, photo: Array, inversion: InversionResult
) -> None:
    def callback(pipe: Any, step: int, timestep: int, tensors: Any) -> dict[str, Any]:
        return {"latents": 0.9 * tensors["latents"]} if step == 0 else tensors

    settings: dict[str, Any] = {"inversion": inversion, "recovery": "none"}
    plain = pipeline(photo, **settings).image
    changed = pipeline(photo, callback_on_step_end=callback, **settings).image
    same = pipeline(photo, callback_on_step_end=lambda *given: given[3], **settings).image
    np.testing.assert_array_equal(same, plain)
    assert np.abs(changed - plain).max() > 1e-3


def test_latents_that_a_callback_changes_count_as_returned(
    pipeline: DehazePipeline, photo: Array
) -> None:
    def in_place(*given: Any) -> None:
        given[3]["latents"].mul_(0.9)

    def in_place_and_nothing_else(*given: Any) -> dict[str, Any]:
        given[3]["latents"].mul_(0.9)
        return {}

    def in_the_dict(*given: Any) -> None:
        given[3]["latents"] = 0.9 * given[3]["latents"]

    def returned(*given: Any) -> dict[str, Any]:
        return {"latents": 0.9 * given[3]["latents"]}

    # BDIA's way back begins with latents of the inversion itself.
    inversion = pipeline.invert(photo, solver="bdia", num_inference_steps=2)
    before = inversion.trajectory.clone()
    plain, *changed = (
        pipeline(photo, inversion=inversion, recovery="none", callback_on_step_end=each).image
        for each in (None, returned, in_place, in_place_and_nothing_else, in_the_dict)
    )
    assert torch.equal(inversion.trajectory, before)
    assert np.abs(changed[0] - plain).max() > 1e-3
    for other in changed[1:]:
        np.testing.assert_array_equal(other, changed[0])


@pytest.mark.parametrize(
    ("returned", "cause"),
    [
        ({"latents": torch.full((1, 12, 8, 12), torch.nan)}, "not finite"),
        ({"latents": torch.zeros(1, 2)}, r"\[1, 2\]"),
        ({"latents": None}, "None"),
        ({"prompt_embeds": torch.zeros(1)}, "prompt_embeds"),
        (torch.zeros(1), "tensor"),
    ],
)
def test_invalid_returns_of_a_callback_are_refused(
    pipeline: DehazePipeline, photo: Array, inversion: InversionResult, returned: Any, cause: str
) -> None:
    with pytest.raises(ValueError, match=cause):
        pipeline(photo, inversion=inversion, callback_on_step_end=lambda *given: returned)


# --- words that the model never learned ---------------------------------------------------------


def test_no_pipeline_takes_a_word_the_model_never_learned(
    pipeline: DehazePipeline, photo: Array
) -> None:
    pipeline.description = replace(
        pipeline.description, vocabulary=frozenset(("a", "photo", "with", "haze", "hazy", "snow"))
    )
    editor = EditPipeline.from_pipe(pipeline)
    calls = (
        lambda: pipeline(photo, "a photo with hase", "hase"),
        lambda: pipeline.invert(photo, "a photo with hase"),
        lambda: editor.generate("a photo with hase"),
        lambda: pipeline.prompted_network(None, "a photo with hase"),  # type: ignore[arg-type]
        lambda: editor(photo, "a photo with haze", "a photo with hase"),
        lambda: editor(photo, "a photo with hase", "a photo with haze"),
    )
    for call in calls:
        with pytest.raises(WordError, match=r"never learned 'hase': did you mean haze\?"):
            call()
    with pytest.raises(WordError, match="never learned 'zzz': it knows a, haze, hazy, photo"):
        pipeline.invert(photo, "a photo with zzz")
    pipeline.check_prompt("A photo, with HAZE")


def test_the_bundled_model_knows_its_own_words_only(bundled: DehazePipeline) -> None:
    with pytest.raises(WordError, match="never learned 'Dunst'"):
        bundled.check_prompt("a photo with Dunst", "Dunst")
    bundled.check_prompt("a photo with dense fog", "dense fog")


def test_an_unknown_option_is_refused_at_run_time(pipeline: DehazePipeline, photo: Array) -> None:
    with pytest.raises(TypeError, match="stepz"):
        pipeline(photo, stepz=3)
    editor = EditPipeline.from_pipe(pipeline)
    with pytest.raises(TypeError, match="stepz"):
        editor(photo, "a photo with haze", "a photo", stepz=3)
    with pytest.raises(TypeError, match="stepz"):
        pipeline.invert(photo, stepz=3)


def test_a_callback_cannot_change_one_of_two_latents(
    pipeline: DehazePipeline, photo: Array
) -> None:
    """EDICT's second latent would go on as if nothing had changed."""
    settings: dict[str, Any] = {"solver": "edict", "num_inference_steps": 2, "recovery": "none"}

    def in_place(*given: Any) -> None:
        given[3]["latents"].mul_(0.9)

    for callback in (
        in_place,
        lambda *given: {"latents": 0.9 * given[3]["latents"]},
        lambda *given: given[3].update(latents=0.9 * given[3]["latents"]),
    ):
        with pytest.raises(ValueError, match="edict has a second latent"):
            pipeline(photo, callback_on_step_end=callback, **settings)
    pipeline(photo, callback_on_step_end=lambda *given: given[3], **settings)
