"""Stable Diffusion XL's conditions, against diffusers' own pipeline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

from dehaze.inversion import DDIMTable
from dehaze.pipelines.edit import EditPipeline
from dehaze.prompts import WordError, tokenize, word_span

PROMPT = "a street with dense haze"


@pytest.fixture(scope="module")
def xl(stable_diffusion_xl: Path) -> EditPipeline:
    pipe = EditPipeline.from_pretrained(stable_diffusion_xl)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_sdxl_embeddings_equal_those_of_diffusers(
    xl: EditPipeline, stable_diffusion_xl: Path
) -> None:
    theirs = StableDiffusionXLPipeline.from_pretrained(stable_diffusion_xl)
    with torch.no_grad():
        tokens, empty, pooled, pooled_empty = theirs.encode_prompt(
            PROMPT, do_classifier_free_guidance=True
        )
        ours = xl.prompts.embed(tokenize(xl.tokenizer, PROMPT))
        null = xl.prompts.null_text()
    torch.testing.assert_close(ours[:, :32], tokens)
    torch.testing.assert_close(ours[:, 32, :20], pooled)
    assert ours.shape == (1, 33, 56)
    # force_zeros_for_empty_prompt, as the published model has it.
    assert xl.description.zero_null_text
    assert torch.equal(null[:, :32], empty)
    assert torch.equal(null[:, 32, :20], pooled_empty)


def test_sdxl_keeps_the_pooled_embedding_of_the_whole_prompt(xl: EditPipeline) -> None:
    prompt = xl.prompts.tokens(PROMPT)
    span = word_span(prompt, "haze")
    own, swapped = xl.prompts.embed(prompt), xl.prompts.swapped(prompt, "haze", span)
    assert torch.equal(swapped[:, 32:], own[:, 32:])
    assert not torch.equal(swapped[:, list(span)], own[:, list(span)])
    without = xl.prompts.embed(xl.prompts.tokens("a street with dense"))
    assert not torch.equal(without[:, 32:], own[:, 32:])


def test_a_generated_picture_is_diffusers_own(stable_diffusion: Path) -> None:
    """The same noise, DDIM and guidance on both sides, at a size that is not square."""
    pipe = EditPipeline.from_pretrained(stable_diffusion)
    pipe.set_progress_bar_config(disable=True)
    path = pipe.generate(
        PROMPT,
        generator=torch.Generator().manual_seed(1),
        size=(32, 48),
        num_inference_steps=3,
        guidance_scale=3.0,
    )
    theirs: Any
    if pipe.text_encoder_2 is None:
        theirs = StableDiffusionPipeline.from_pretrained(
            stable_diffusion, safety_checker=None, requires_safety_checker=False
        )
    else:
        theirs = StableDiffusionXLPipeline.from_pretrained(stable_diffusion)
    # The settings of PNDM and Euler do not disable DDIM's clipping of latents.
    theirs.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    theirs.set_progress_bar_config(disable=True)
    latents = theirs(
        PROMPT,
        height=32,
        width=48,
        num_inference_steps=3,
        guidance_scale=3.0,
        latents=path.latents.clone(),
        output_type="latent",
    ).images
    torch.testing.assert_close(path.trajectory[0], latents, rtol=1e-3, atol=1e-4)


def test_the_network_gets_size_and_pooled_embedding(xl: EditPipeline) -> None:
    table = DDIMTable.from_scheduler(xl.scheduler, 3)
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        network = xl.prompted_network(table, PROMPT)
        embedding = network.conditional
        plain = network.noise_under(embedding, latents, 2)
        changed = embedding.clone()
        changed[:, 32] = 0.0
        pooled = network.noise_under(changed, latents, 2)
        xl.description = replace(xl.description, pixels_per_latent=64)
        larger = xl.prompted_network(table, PROMPT).noise_under(embedding, latents, 2)
        xl.description = replace(xl.description, pixels_per_latent=2)
    assert (pooled - plain).abs().max() > 1e-4
    assert (larger - plain).abs().max() > 1e-4


def test_tokenizers_that_disagree_are_refused(
    stable_diffusion_xl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = EditPipeline.from_pretrained(stable_diffusion_xl)
    prompt = tokenize(pipe.tokenizer, PROMPT)
    wrong = replace(prompt, offsets=prompt.offsets[1:])
    with pytest.raises(WordError, match="two tokenizers"):
        pipe.prompts.embed(wrong)
