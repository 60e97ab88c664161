"""Loads the parts of a text-to-image model: the bundled one, a folder's, or a hub id's.

Weights are safetensors only, and no code that comes with a model is ever run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from dehaze.models.codec import PixelUnshuffleCodec
from dehaze.models.registry import ModelDescription, describe

BUNDLED = "bundled"
BUNDLED_FOLDER = Path(__file__).resolve().parent / "bundled"

_CODECS = {"AutoencoderKL": AutoencoderKL, "PixelUnshuffleCodec": PixelUnshuffleCodec}
# Only what the loader reads: no pickled weights, no second copies in other precisions.
_FILES = [
    "model_index.json",
    "dehaze.json",
    "scheduler/*.json",
    "tokenizer/*",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer_2/*",
    "text_encoder_2/config.json",
    "text_encoder_2/model.safetensors",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
]


class ModelError(ValueError):
    """The model cannot be found, or is not of a kind that can be used."""


@dataclass(frozen=True)
class ModelParts:
    """The parts of a text-to-image model, by the names that diffusers gives them.

    The second text encoder and tokenizer are Stable Diffusion XL's; None elsewhere.
    """

    vae: Any
    text_encoder: Any
    tokenizer: Any
    unet: Any
    scheduler: Any
    description: ModelDescription
    text_encoder_2: Any = None
    tokenizer_2: Any = None


def find_model(model: str | Path, revision: str | None = None) -> Path:
    """The folder of a model: the bundled one, one on disk, or one downloaded from the hub.

    Raises:
        ModelError: there is no such folder and no such model on the hub, or it cannot be reached.
    """
    if str(model) == BUNDLED:
        folder = BUNDLED_FOLDER
    elif Path(model).is_dir():
        folder = Path(model)
    else:
        try:
            folder = Path(snapshot_download(str(model), revision=revision, allow_patterns=_FILES))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise ModelError(
                f"{model}: no such folder, and the hub did not give it "
                f"({type(error).__name__}): check the name and the network, or use 'bundled'"
            ) from error
    if not (folder / "model_index.json").is_file():
        raise ModelError(
            f"{folder} has no model_index.json: name a folder in diffusers' format or a hub id"
        )
    return folder


def load_parts(
    model: str | Path, *, torch_dtype: torch.dtype | None = None, revision: str | None = None
) -> ModelParts:
    """Loads the parts of a model in diffusers' format.

    Args:
        model: ``"bundled"``, a folder, or a hub id.
        torch_dtype: of the network and the text encoder; float32 when None. The codec stays in
            float32: Stable Diffusion's overflows in half precision.
        revision: of a hub id.

    Raises:
        ModelError: the model is missing, incomplete, or of a kind that is not supported.
    """
    folder = find_model(model, revision)
    index = json.loads((folder / "model_index.json").read_text())
    second = index.get("text_encoder_2", [None])[0] is not None
    parts = ["unet", "vae", "text_encoder", "tokenizer", "scheduler"]
    if index.get("text_encoder", [None])[0] is None:
        raise ModelError(f"{model} has no text_encoder: it is no text-to-image model by itself")
    for part in [*parts, "text_encoder_2", "tokenizer_2"] if second else parts:
        if not (folder / part).is_dir():
            raise ModelError(
                f"{model} has no {part}: a text-to-image model in diffusers' format has"
            )
    dtype = torch_dtype or torch.float32
    codec_name = json.loads((folder / "vae" / "config.json").read_text()).get("_class_name")
    if codec_name not in _CODECS:
        raise ModelError(f"{model}: its vae is a {codec_name}: there are {', '.join(_CODECS)}")
    verbosity = diffusers_logging.get_verbosity()
    # A scheduler of another class has settings that DDIM lacks; that is known and not worth a line.
    diffusers_logging.set_verbosity_error()
    try:
        unet = UNet2DConditionModel.from_pretrained(
            folder / "unet", torch_dtype=dtype, use_safetensors=True
        )
        vae = _CODECS[codec_name].from_pretrained(folder / "vae", use_safetensors=True)
        text_encoder = CLIPTextModel.from_pretrained(
            folder / "text_encoder", dtype=dtype, use_safetensors=True
        )
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        text_encoder_2 = tokenizer_2 = None
        if second:
            text_encoder_2 = CLIPTextModelWithProjection.from_pretrained(
                folder / "text_encoder_2", dtype=dtype, use_safetensors=True
            )
            tokenizer_2 = CLIPTokenizer.from_pretrained(folder / "tokenizer_2")
        scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
    except (OSError, ValueError) as error:
        cause = str(error).strip().splitlines()[0]
        raise ModelError(f"{model} cannot be loaded: {cause}") from error
    finally:
        diffusers_logging.set_verbosity(verbosity)
    for network in (unet, vae, text_encoder, text_encoder_2):
        if network is not None:
            network.eval().requires_grad_(False)
    description = describe(unet, vae, folder)
    if index.get("force_zeros_for_empty_prompt"):
        description = replace(description, zero_null_text=True)
    return ModelParts(
        vae, text_encoder, tokenizer, unet, scheduler, description, text_encoder_2, tokenizer_2
    )
