"""Stable Diffusion 1.x, 2.x and XL from one safetensors file, as the original code saves them.

Such a file holds weights alone, under other names than diffusers'. What the networks look like, the
schedule and the tokenizers come from a layout: a folder in diffusers' format, its weights left out.
The names are translated by diffusers' own functions; that no weight is missing is checked here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
    fetch_diffusers_config,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from dehaze.errors import DehazeError

Weights = Mapping[str, Tensor]

_NETWORK = "model.diffusion_model."
_CODEC = "first_stage_model."
# Of the first and second text encoder: those of 1.x, 2.x, and XL's two.
_CLIP = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
_OPEN_CLIP = ("cond_stage_model.model.", "conditioner.embedders.1.model.")


class SingleFileError(DehazeError, ValueError):
    """The file is not a whole Stable Diffusion, or not one of its layout."""


def read_weights(file: Path) -> dict[str, Tensor]:
    """Every tensor of the file, by its original name.

    Raises:
        SingleFileError: the file cannot be read, or holds no diffusion network.
    """
    try:
        weights = load_file(file)
    except (SafetensorError, OSError) as error:
        raise SingleFileError(f"{file} is no whole safetensors file: {error}") from error
    if not any(name.startswith(_NETWORK) for name in weights):
        raise SingleFileError(
            f"{file} has no weights under {_NETWORK}: it is no Stable Diffusion in one file"
        )
    return weights


def usual_layout(weights: Weights) -> str:
    """The hub id of the published model that has the file's layout, as far as weights tell.

    2.x models of either prediction type look alike, and are taken for 2.1, which predicts v.
    """
    return str(fetch_diffusers_config(weights)["pretrained_model_name_or_path"])


def build_networks(
    weights: Weights, layout: Path, *, second: bool, dtype: torch.dtype
) -> dict[str, Any]:
    """The networks of a file, by the names of their folders in diffusers' format.

    Args:
        weights: from ``read_weights``.
        layout: a folder in diffusers' format; only its configurations are read.
        second: whether the layout has a second text encoder.
        dtype: of all but the codec, which stays in float32.

    Raises:
        SingleFileError: weights are missing, or of other shapes than the layout's.
        OSError: a configuration is missing.
    """
    unet, vae = (
        network.from_config(network.load_config(layout / part))
        for network, part in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae"))
    )
    _fill(unet, "unet", _translated(convert_ldm_unet_checkpoint, weights, _NETWORK, unet.config))
    _fill(vae, "vae", _translated(convert_ldm_vae_checkpoint, weights, _CODEC, vae.config))
    kinds: dict[str, Any] = {"text_encoder": CLIPTextModel}
    if second:
        kinds["text_encoder_2"] = CLIPTextModelWithProjection
    encoders = {}
    for part, kind in kinds.items():
        encoder = kind(CLIPTextConfig.from_pretrained(layout / part))
        _fill(encoder, part, _text_weights(encoder, part, weights))
        encoders[part] = encoder.to(dtype)
    return {"unet": unet.to(dtype), "vae": vae, **encoders}


def _translated(convert: Any, weights: Weights, prefix: str, config: Any) -> Weights:
    """The weights under a prefix by diffusers' names."""
    own = {name: value for name, value in weights.items() if name.startswith(prefix)}
    try:
        return dict(convert(own, config=dict(config)))
    except (KeyError, IndexError) as error:
        raise SingleFileError(f"the file lacks weight {error} under {prefix}") from error


def _text_weights(encoder: Any, part: str, weights: Weights) -> Weights:
    """The weights of a text encoder by the names that it gives them."""
    held = [
        prefix for prefix in (*_CLIP, *_OPEN_CLIP) if any(n.startswith(prefix) for n in weights)
    ]
    wanted = [p for p in held if (p == _OPEN_CLIP[1]) == (part == "text_encoder_2")]
    if not wanted:
        raise SingleFileError(f"the file has no weights of the {part} that its layout asks for")
    own = {name: value for name, value in weights.items() if name.startswith(wanted[0])}
    if wanted[0] in _CLIP:
        names = convert_ldm_clip_checkpoint(own)
    else:
        names = convert_open_clip_checkpoint(encoder, own, prefix=wanted[0])
    if not hasattr(encoder, "text_model"):
        # transformers has dropped this level from the encoder without a projection.
        names = {name.removeprefix("text_model."): value for name, value in names.items()}
    return dict(names)


def _fill(network: Any, part: str, weights: Weights) -> None:
    """Puts weights into a network, every one of which has to be there."""
    try:
        missing, _ = network.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        # The first line only says that something is wrong.
        cause = str(error).strip().splitlines()[-1].strip()
        raise SingleFileError(f"the file's {part} is not of the layout's shape: {cause}") from error
    if missing:
        raise SingleFileError(
            f"the file lacks {len(missing)} weights of the layout's {part}, {missing[0]} for one"
        )
