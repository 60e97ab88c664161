from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dehaze.models import ModelError
from dehaze.models.needs import describe
from dehaze.pipelines.dehaze import DehazePipeline


def test_needs_are_derived_from_the_parts(stable_diffusion: Path) -> None:
    pipe = DehazePipeline.from_pretrained(stable_diffusion)
    # One halving in the codec, one in the network; 16 latents of 2 pixels.
    assert pipe.description.size_multiple == 4
    assert pipe.description.short_side == 32
    assert pipe.description.inversion.spacing is None
    assert pipe.default_word in pipe.default_prompt


def test_a_models_own_description_comes_first(pipeline: DehazePipeline, tmp_path: Path) -> None:
    (tmp_path / "dehaze.json").write_text(json.dumps({"steps": 7, "word": "fog"}))
    description = describe(pipeline.unet, pipeline.vae, tmp_path)
    assert description.inversion.steps == 7
    assert description.word == "fog"
    assert description.size_multiple == 4


def test_an_unknown_field_is_named(pipeline: DehazePipeline, tmp_path: Path) -> None:
    (tmp_path / "dehaze.json").write_text(json.dumps({"stepz": 7}))
    with pytest.raises(ValueError, match="stepz"):
        describe(pipeline.unet, pipeline.vae, tmp_path)


def test_a_model_may_take_fewer_steps_back(pipeline: DehazePipeline, tmp_path: Path) -> None:
    (tmp_path / "dehaze.json").write_text(json.dumps({"denoising_steps": 0}))
    with pytest.raises(ValueError, match="denoising_steps is 0, and must be null or a whole"):
        describe(pipeline.unet, pipeline.vae, tmp_path)
    (tmp_path / "dehaze.json").write_text(json.dumps({"denoising_steps": 1}))
    assert describe(pipeline.unet, pipeline.vae, tmp_path).denoising_steps == 1


def test_every_field_that_is_saved_comes_back(pipeline: DehazePipeline, tmp_path: Path) -> None:
    own = pipeline.description
    inversion = replace(
        own.inversion,
        steps=9,
        spacing="trailing",
        solver="damped",
        predictor="previous",
        relaxation="fitted",
        criterion="certificate",
        max_iterations=3,
        tolerance=0.02,
    )
    changed = replace(
        own,
        pixels_per_latent=4,
        size_multiple=12,
        short_side=48,
        long_side=480,
        inversion=inversion,
        fitted_inversion=not own.fitted_inversion,
        denoising_steps=2,
        cross_replace_steps=0.7,
        self_replace_steps=0.3,
        prompt="a photo with fog",
        word="fog",
        map_layers={"mid": -0.5},
        vocabulary=frozenset({"a", "fog"}),
        zero_null_text=not own.zero_null_text,
    )
    assert all(vars(changed)[name] != value for name, value in vars(own).items())
    changed.save(tmp_path)
    assert describe(pipeline.unet, pipeline.vae, tmp_path) == changed
    guided = replace(own, inversion=replace(own.inversion, guidance_scale=3.0))
    with pytest.raises(ModelError, match="has no place for the inversion's guidance_scale"):
        guided.save(tmp_path)
