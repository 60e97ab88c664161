"""Prompt-aware adjustment, as FPI's text states it and as FPI's code does it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline
from schedules import FunctionNetwork, table_of
from torch import Tensor

from dehaze.inversion import ADJUSTMENTS, adjust
from dehaze.pipelines.dehaze import DehazePipeline


def latents() -> Tensor:
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def output(z: Tensor, i: int, index: Tensor) -> Tensor:
    # The second sample's prompt fits its picture: its noise does not depend on the latent.
    return torch.where(index[:, None, None, None] == 0, torch.tanh(2.0 * z), 0.3)


def network(steps: int) -> FunctionNetwork:
    return FunctionNetwork(table_of(steps), output)


def test_the_text_says_two_steps_up_and_two_down() -> None:
    counted = network(10)
    adjusted, _ = adjust("noise-denoise", counted, latents())
    assert counted.calls == [1, 2, 2, 1]
    table, everyone = counted.table, torch.arange(2)
    z = latents()
    for i in (1, 2):
        A, B = table.coefficients(i)
        z = A * z + B * output(z, i, everyone)
    for i in (2, 1):
        A, B = table.coefficients(i)
        z = (z - B * output(z, i, everyone)) / A
    torch.testing.assert_close(adjusted, z)


def test_the_code_is_img2img_at_strength_a_twentieth() -> None:
    """Of 60 steps int(.05 N) = 3, from a noised picture, as diffusers' img2img."""
    counted = network(60)
    adjusted, _ = adjust("img2img", counted, latents())
    assert counted.calls == [3, 2, 1]
    table, everyone = counted.table, torch.arange(2)
    drawn = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = math.sqrt(table.alphas[3]) * latents() + math.sqrt(1.0 - table.alphas[3]) * drawn
    for i in (3, 2, 1):
        before, now = (math.sqrt(table.alphas[j]) for j in (i - 1, i))
        noise = output(z, i, everyone)
        picture = (z - table.sigma(i) * noise) / now
        z = before * picture + table.sigma(i - 1) * noise
    torch.testing.assert_close(adjusted, z)


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_img2img_is_that_of_diffusers(stable_diffusion_1: Path, guidance_scale: float) -> None:
    """FPI's main.py: diffusers' img2img, strength .05, 50 steps, at the inversion's guidance."""
    pipeline = DehazePipeline.from_pretrained(stable_diffusion_1)
    photo = np.random.default_rng(0).random((16, 24, 3), dtype=np.float32)
    settings = {"num_inference_steps": 50, "guidance_scale": guidance_scale, "solver": "ddim"}
    plain = pipeline.invert(photo, "a photo with haze", depth=1, **settings)
    adjusted = pipeline.invert(
        photo, "a photo with haze", depth=1, adjustment="img2img", **settings
    )
    published = StableDiffusionImg2ImgPipeline.from_pretrained(
        stable_diffusion_1, safety_checker=None, feature_extractor=None
    )
    published.scheduler = DDIMScheduler.from_config(published.scheduler.config, clip_sample=False)
    expected = published(
        "a photo with haze",
        plain.trajectory[0],
        strength=0.05,
        guidance_scale=guidance_scale,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
    ).images
    torch.testing.assert_close(adjusted.trajectory[0], expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain.trajectory[0], expected, atol=1e-2)
    # Two steps of the adjustment and one of the inversion, each of one evaluation or two.
    assert int(adjusted.trace.nfe.sum()) == 3 * (1 if guidance_scale == 1.0 else 2)


@pytest.mark.parametrize(("name", "steps", "calls"), [("noise-denoise", 10, 4), ("img2img", 20, 1)])
def test_it_is_repeated_as_often_as_asked(name: str, steps: int, calls: int) -> None:
    counted = network(steps)
    twice, _ = adjust(name, counted, latents(), repeats=2)
    assert len(counted.calls) == 2 * calls
    once, distance = adjust(name, network(steps), latents())
    assert not torch.equal(once, twice)
    change = (once - latents())[0].norm() / latents()[0].norm()
    assert float(distance[0]) == pytest.approx(float(change))


def test_each_repeat_of_img2img_draws_noise_of_its_own() -> None:
    twice, _ = adjust("img2img", network(20), latents(), repeats=2)
    move = ADJUSTMENTS.get("img2img").move
    torch.testing.assert_close(twice, move(network(20), move(network(20), latents(), 0), 1))


def test_the_text_leaves_a_picture_that_fits_its_prompt() -> None:
    _, distance = adjust("noise-denoise", network(10), latents())
    assert float(distance[0]) > 1e-3
    assert float(distance[1]) < 1e-12


@pytest.mark.parametrize(("name", "steps"), [("noise-denoise", 1), ("img2img", 19)])
def test_a_schedule_of_too_few_steps_is_refused(name: str, steps: int) -> None:
    with pytest.raises(ValueError, match=f"{steps}"):
        adjust(name, network(steps), latents())
