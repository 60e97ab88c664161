"""Diffusers' ways to save memory or time, each tried on an edit at Stable Diffusion's real sizes.

    python benchmarks/memory_savers.py

The networks have the sizes of Stable Diffusion 1.5 and random weights, so only the difference of a
picture from the plain one counts. They run on the CPU on a small picture: the table shows whether a
way works and what it changes, not what it saves. Parts are moved by the hooks of the package
accelerate, here from the CPU to the CPU.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from model_memory import CODEC, MODELS, TOKENS
from numpy.typing import NDArray
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dehaze.errors import DehazeError, first_line
from dehaze.models.needs import describe
from dehaze.models.source import BUNDLED_FOLDER
from dehaze.pipelines.edit import EditPipeline
from dehaze.pipelines.edit_settings import EditSettings

PROMPTS = ("a photo with haze", "a photo with smoke")
STEPS = 2
# Sides in pixels, of the picture and of the codec's tiles; the picture has several tiles.
SIDE, TILE = 128, 64


@dataclass(frozen=True)
class Way:
    """A way to save memory or time.

    Attributes:
        name: the call that turns it on.
        begin: turns it on.
        end: turns it off.
    """

    name: str
    begin: Callable[[EditPipeline], Any]
    end: Callable[[EditPipeline], Any] = lambda pipe: None


def made_tokenizer() -> CLIPTokenizer:
    """The bundled model's tokenizer, at the length of Stable Diffusion's prompts."""
    folder = BUNDLED_FOLDER / "tokenizer"
    return CLIPTokenizer.from_pretrained(folder, model_max_length=TOKENS)


def made_scheduler() -> DDIMScheduler:
    """The schedule of Stable Diffusion 1.5 and XL."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def made_pipeline(small: bool) -> EditPipeline:
    """Stable Diffusion 1.5 with random weights for small pictures, or with few channels."""
    torch.manual_seed(0)
    model = MODELS["SD 1.5"]
    unet, codec, text = dict(model.unet), dict(CODEC), dict(model.encoders[0])
    if small:
        unet["block_out_channels"] = (32, 32, 32, 32)
        codec["block_out_channels"] = (32, 32, 32, 32)
        text["num_hidden_layers"] = 1
    vae = AutoencoderKL(**codec, scaling_factor=0.18215)
    with torch.no_grad():
        # Makes activations exceed float16's range, as in Stable Diffusion XL's codec.
        for layer in (vae.encoder.conv_in, vae.decoder.conv_in):
            layer.weight *= 6e4 / layer.weight.abs().max()
    network = UNet2DConditionModel(**unet).eval()
    encoder = CLIPTextModel(
        CLIPTextConfig(vocab_size=49408, max_position_embeddings=TOKENS, **text)
    ).eval()
    description = replace(describe(network, vae), short_side=SIDE)
    pipe = EditPipeline(vae, encoder, made_tokenizer(), network, made_scheduler(), description)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tile(pipe: EditPipeline) -> None:
    """Turns on tiling, in tiles smaller than the picture."""
    pipe.vae.enable_tiling()
    pipe.vae.tile_sample_min_size, pipe.vae.tile_latent_min_size = TILE, TILE // 8


def compile_network(pipe: EditPipeline) -> None:
    """Wraps the network by torch.compile; the backend runs the graphs and generates no code."""
    pipe.unet = torch.compile(pipe.unet, backend="eager")


def restore_network(pipe: EditPipeline) -> None:
    """Takes the network out of torch.compile's wrapper."""
    pipe.unet = pipe.unet._orig_mod


# Ways that round the weights come last.
WAYS = (
    Way(
        "`enable_model_cpu_offload()`",
        lambda pipe: pipe.enable_model_cpu_offload(device="cpu"),
        lambda pipe: pipe.remove_all_hooks(),
    ),
    Way("`enable_sequential_cpu_offload()`", lambda pipe: pipe.enable_sequential_cpu_offload()),
    Way(
        "`vae.enable_slicing()`",
        lambda pipe: pipe.vae.enable_slicing(),
        lambda pipe: pipe.vae.disable_slicing(),
    ),
    Way(
        f"`vae.enable_tiling()`, tiles of {TILE} pixels",
        tile,
        lambda pipe: pipe.vae.disable_tiling(),
    ),
    Way(
        "`enable_attention_slicing()`",
        lambda pipe: pipe.enable_attention_slicing(),
        lambda pipe: pipe.unet.set_default_attn_processor(),
    ),
    Way(
        "`unet.fuse_qkv_projections()`",
        lambda pipe: pipe.unet.fuse_qkv_projections(),
        lambda pipe: pipe.unet.unfuse_qkv_projections(),
    ),
    Way("`torch.compile(unet)`", compile_network, restore_network),
    Way(
        "`guidance_in_two_calls`",
        lambda pipe: setattr(pipe, "guidance_in_two_calls", True),
        lambda pipe: setattr(pipe, "guidance_in_two_calls", False),
    ),
    Way(
        "`attention_memory = 0`",
        lambda pipe: setattr(pipe, "attention_memory", 0),
        lambda pipe: setattr(pipe, "attention_memory", None),
    ),
    Way(
        "`vae.half()`, which overflows", lambda pipe: pipe.vae.half(), lambda pipe: pipe.vae.float()
    ),
    Way("`unet.to(torch.bfloat16)`", lambda pipe: pipe.unet.to(torch.bfloat16)),
)


def edited(pipe: EditPipeline) -> NDArray[np.float32]:
    """The edit of a picture."""
    photo = np.random.default_rng(0).random((SIDE, SIDE, 3)).astype(np.float32)
    result = pipe(
        photo,
        *PROMPTS,
        EditSettings(guidance_scale=2.0),
        num_inference_steps=STEPS,
        solver="ddim",
        recovery="none",
    )
    return np.asarray(result.image)


def tried(pipe: EditPipeline, way: Way) -> tuple[NDArray[np.float32], float]:
    """The edit with a way turned on, and its processor time in seconds."""
    way.begin(pipe)
    try:
        # The first edit may compile something.
        edited(pipe)
        before = time.process_time()
        return edited(pipe), time.process_time() - before
    finally:
        # A way that fails is turned off before the next one.
        way.end(pipe)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a network of few channels instead")
    parser.add_argument("--only", default="", metavar="TEXT", help="ways with this in their name")
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    pipe = made_pipeline(given.small)
    edited(pipe)
    before = time.process_time()
    expected = edited(pipe)
    plain = time.process_time() - before
    print(f"| tried, {STEPS} steps, {SIDE} x {SIDE} pixels | mean difference | time |")
    print("| --- | ---: | ---: |")
    for way in (way for way in WAYS if given.only in way.name):
        try:
            found, seconds = tried(pipe, way)
        except (DehazeError, ImportError, RuntimeError, TypeError) as error:
            print(f"| {way.name} | refused: {first_line(error)} | |", flush=True)
            continue
        difference = float(np.abs(found - expected).mean())
        print(f"| {way.name} | {difference:.2g} | {seconds / plain:.2f} |", flush=True)


if __name__ == "__main__":
    main()
