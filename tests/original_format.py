"""Saves a folder of diffusers as one file with Stable Diffusion's original names of weights."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Weights = dict[str, Tensor]

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_OPEN_CLIP = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}


def save_as_one_file(folder: Path, file: Path) -> Path:
    """A model's folder as one file of the original kind, its layout in the folder beside it.

    1.x has CLIP for its text encoder, 2.x (predicts v) OpenCLIP, XL both.
    """
    index = json.loads((folder / "model_index.json").read_text())
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    unet = json.loads((folder / "unet" / "config.json").read_text())
    made = {
        **_prefixed("model.diffusion_model.", _unet(_read(folder / "unet"), unet)),
        **_prefixed("first_stage_model.", _vae(_read(folder / "vae"))),
    }
    text = _bare(_read(folder / "text_encoder"))
    if index.get("text_encoder_2", [None])[0]:
        second = _bare(_read(folder / "text_encoder_2"))
        clip = _prefixed("text_model.", text)
        made |= _prefixed("conditioner.embedders.0.transformer.", clip)
        made |= _prefixed("conditioner.embedders.1.model.", _open_clip(second))
    elif scheduler["prediction_type"] == "v_prediction":
        made |= _prefixed("cond_stage_model.model.", _open_clip(text))
    else:
        clip = _prefixed("text_model.", text)
        made |= _prefixed("cond_stage_model.transformer.", clip)
    save_file({name: value.contiguous() for name, value in made.items()}, file)
    shutil.copytree(
        folder, file.with_suffix(""), ignore=shutil.ignore_patterns("*.safetensors", "source")
    )
    return file


def _read(folder: Path) -> Weights:
    return load_file(next(folder.glob("*.safetensors")))


def _prefixed(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: value for name, value in weights.items()}


def _bare(weights: Weights) -> Weights:
    return {name.removeprefix("text_model."): value for name, value in weights.items()}


def _unet(weights: Weights, config: dict[str, list[str] | int]) -> Weights:
    """The original format numbers blocks across levels: one for each layer and downsampling."""
    per_block = int(str(config["layers_per_block"])) + 1
    made = {}
    for name, value in weights.items():
        stem, kind = name.rsplit(".", 1)
        if stem in _UNET:
            made[f"{_UNET[stem]}.{kind}"] = value
            continue
        parts = name.split(".")
        if parts[0] == "mid_block":
            number, rest = int(parts[2]), ".".join(parts[3:])
            place = f"middle_block.{2 * number if parts[1] == 'resnets' else 2 * number + 1}"
        else:
            side, block, what, layer = parts[0], int(parts[1]), parts[2], int(parts[3])
            rest = ".".join(parts[4:])
            if what == "downsamplers":
                place, rest = (
                    f"input_blocks.{per_block * (block + 1)}.0",
                    rest.replace("conv", "op"),
                )
            elif what == "upsamplers":
                attended = any(key.startswith(f"up_blocks.{block}.attentions") for key in weights)
                place = f"output_blocks.{per_block * (block + 1) - 1}.{2 if attended else 1}"
            else:
                first = 1 if side == "down_blocks" else 0
                stack = "input_blocks" if side == "down_blocks" else "output_blocks"
                at = per_block * block + layer + first
                place = f"{stack}.{at}.{0 if what == 'resnets' else 1}"
        if "resnets" in parts:
            rest = ".".join(_RESNET.get(part, part) for part in rest.split("."))
        made[f"{place}.{rest}"] = value
    return made


def _vae(weights: Weights) -> Weights:
    levels = 1 + max(
        int(match[1]) for name in weights if (match := re.search(r"up_blocks\.(\d+)", name))
    )
    made = {}
    for name, value in weights.items():
        old = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", name)
        old = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", old)
        old = re.sub(
            r"up_blocks\.(\d+)\.(resnets\.|upsamplers\.0)",
            lambda m: (
                f"up.{levels - 1 - int(m[1])}." + ("block." if m[2] == "resnets." else "upsample")
            ),
            old,
        )
        old = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", old)
        old = old.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        if "mid_block.attentions.0." in old:
            old = old.replace("mid_block.attentions.0.", "mid.attn_1.")
            for new, original in (
                ("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"),
                ("to_out.0", "proj_out"),
            ):  # fmt: skip
                old = old.replace(f"attn_1.{new}.", f"attn_1.{original}.")
            if value.ndim == 2:
                # The original code attends by convolutions of one pixel.
                value = value[:, :, None, None]
        made[old] = value
    return made


def _open_clip(weights: Weights) -> Weights:
    made = {_OPEN_CLIP[name]: value for name, value in weights.items() if name in _OPEN_CLIP}
    if "text_projection.weight" in weights:
        made["text_projection"] = weights["text_projection.weight"].T
    layers = {name.split(".")[2] for name in weights if name.startswith("encoder.layers.")}
    for layer in layers:
        start, block = f"encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        own = {n.removeprefix(start): v for n, v in weights.items() if n.startswith(start)}
        for kind in ("weight", "bias"):
            stacked = [own.pop(f"self_attn.{name}_proj.{kind}") for name in "qkv"]
            made[f"{block}attn.in_proj_{kind}"] = torch.cat(stacked)
        for name, value in own.items():
            old = name.replace("layer_norm", "ln_").replace("self_attn", "attn")
            old = old.replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj")
            made[block + old] = value
    return made
