"""Loads the parts of a text-to-image model: the bundled one, a folder's, a hub id's, or a file's.

Weights are safetensors only, and no code that comes with a model is ever run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from dehaze.errors import DehazeError
from dehaze.inversion.schedule import check_scheduler, check_scheduler_class
from dehaze.models.codec import PixelUnshuffleCodec
from dehaze.models.needs import ModelDescription, describe
from dehaze.models.single_file import (
    SingleFileError,
    Weights,
    build_networks,
    read_weights,
    usual_layout,
)

BUNDLED = "bundled"
BUNDLED_FOLDER = Path(__file__).resolve().parent / "bundled"

_CODECS = {"AutoencoderKL": AutoencoderKL, "PixelUnshuffleCodec": PixelUnshuffleCodec}
_LAYOUT_FILES = [
    "model_index.json",
    "dehaze.json",
    "scheduler/*.json",
    "tokenizer/*",
    "text_encoder/config.json",
    "tokenizer_2/*",
    "text_encoder_2/config.json",
    "unet/config.json",
    "vae/config.json",
]
# Only what the loader reads: no pickled weights, no second copies in other precisions.
_FILES = [
    *_LAYOUT_FILES,
    "text_encoder/model.safetensors",
    "text_encoder_2/model.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
]


_HUB_ERRORS = (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError)


class ModelError(DehazeError, ValueError):
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
    """Where a model lies: the bundled one, a folder or file on disk, or one from the hub.

    Raises:
        ModelError: there is no such folder or file and no such model on the hub, or it cannot be
            reached, or the file is of another format than safetensors.
    """
    if str(model) == BUNDLED:
        folder = BUNDLED_FOLDER
    elif Path(model).is_file():
        if Path(model).suffix != ".safetensors":
            raise ModelError(
                f"{model} is no .safetensors file: weights of other formats are not read"
            )
        return Path(model)
    elif Path(model).is_dir():
        folder = Path(model)
    else:
        try:
            folder = Path(snapshot_download(str(model), revision=revision, allow_patterns=_FILES))
        except _HUB_ERRORS as error:
            raise ModelError(
                f"{model}: no such folder or file, and the hub did not give it "
                f"({type(error).__name__}): check the name and the network, or use 'bundled'"
            ) from error
    if not (folder / "model_index.json").is_file():
        raise ModelError(
            f"{folder} has no model_index.json: name a folder in diffusers' format or a hub id"
        )
    return folder


def find_layout(file: Path) -> Path:
    """The layout of a model in one file: the folder of its name beside it, or one from the hub.

    ``my/model.safetensors`` has its layout in ``my/model/``, where there is such a folder; else it
    is that of the published model that its weights look like.

    Raises:
        ModelError: there is none, or the file is no Stable Diffusion; the message says what to do.
    """
    try:
        return _layout(file, read_weights(file))
    except SingleFileError as error:
        raise ModelError(str(error)) from error


def _layout(file: Path, weights: Weights) -> Path:
    beside = file.with_suffix("")
    if (beside / "model_index.json").is_file():
        return beside
    usual = usual_layout(weights)
    try:
        return Path(snapshot_download(usual, allow_patterns=_LAYOUT_FILES))
    except _HUB_ERRORS as error:
        raise ModelError(
            f"{file} holds weights alone, and the hub did not give the layout of {usual} "
            f"({type(error).__name__}): put its configurations and tokenizers into {beside}/"
        ) from error


def load_parts(
    model: str | Path, *, torch_dtype: torch.dtype | None = None, revision: str | None = None
) -> ModelParts:
    """Loads the parts of a model in diffusers' format, or of one file in the original format.

    Args:
        model: ``"bundled"``, a folder, a hub id, or a .safetensors file, see ``find_layout``.
        torch_dtype: of the network and the text encoder; float32 when None. The codec stays in
            float32: Stable Diffusion's overflows in half precision.
        revision: of a hub id.

    Raises:
        ModelError: the model is missing, incomplete, or of a kind that is not supported.
    """
    path = find_model(model, revision)
    dtype = torch_dtype or torch.float32
    verbosity = diffusers_logging.get_verbosity()
    # A scheduler of another class has settings that DDIM lacks; that is known and not worth a line.
    diffusers_logging.set_verbosity_error()
    try:
        weights = read_weights(path) if path.is_file() else None
        folder = path if weights is None else _layout(path, weights)
        index = json.loads((folder / "model_index.json").read_text())
        second = index.get("text_encoder_2", [None])[0] is not None
        _check_parts(model, folder, index, second)
        if weights is None:
            networks = _saved_networks(folder, second, dtype)
        else:
            networks = build_networks(weights, folder, second=second, dtype=dtype)
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        tokenizer_2 = CLIPTokenizer.from_pretrained(folder / "tokenizer_2") if second else None
        scheduler = _scheduler(folder, index)
    except ModelError:
        raise
    except (OSError, ValueError) as error:
        cause = str(error).strip().splitlines()[0]
        raise ModelError(f"{model} cannot be loaded: {cause}") from error
    finally:
        diffusers_logging.set_verbosity(verbosity)
    for network in networks.values():
        network.eval().requires_grad_(False)
    description = describe(networks["unet"], networks["vae"], folder)
    if index.get("force_zeros_for_empty_prompt"):
        description = replace(description, zero_null_text=True)
    return ModelParts(
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        scheduler=scheduler,
        description=description,
        **networks,
    )


def _check_parts(model: str | Path, folder: Path, index: dict[str, Any], second: bool) -> None:
    parts = ["unet", "vae", "text_encoder", "tokenizer", "scheduler"]
    if index.get("text_encoder", [None])[0] is None:
        raise ModelError(f"{model} has no text_encoder: it is no text-to-image model by itself")
    for part in [*parts, "text_encoder_2", "tokenizer_2"] if second else parts:
        if not (folder / part).is_dir():
            raise ModelError(
                f"{model} has no {part}: a text-to-image model in diffusers' format has"
            )


def _scheduler(folder: Path, index: dict[str, Any]) -> Any:
    """The model's scheduler, of its own class: a setting that is left out has that class's default.

    Raises:
        ScheduleError: it is of another process than DDIM's.
    """
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    named = index["scheduler"][1]
    for name in (named, config.get("_class_name", named)):
        check_scheduler_class(name)
    scheduler = getattr(diffusers, named).from_config(config)
    check_scheduler(scheduler)
    return scheduler


def _saved_networks(folder: Path, second: bool, dtype: torch.dtype) -> dict[str, Any]:
    """The networks of a folder, by the names of their own folders."""
    codec_name = json.loads((folder / "vae" / "config.json").read_text()).get("_class_name")
    if codec_name not in _CODECS:
        raise ModelError(f"{folder}: its vae is a {codec_name}: there are {', '.join(_CODECS)}")
    networks = {
        "unet": UNet2DConditionModel.from_pretrained(
            folder / "unet", torch_dtype=dtype, use_safetensors=True
        ),
        "vae": _CODECS[codec_name].from_pretrained(folder / "vae", use_safetensors=True),
        "text_encoder": CLIPTextModel.from_pretrained(
            folder / "text_encoder", dtype=dtype, use_safetensors=True
        ),
    }
    if second:
        networks["text_encoder_2"] = CLIPTextModelWithProjection.from_pretrained(
            folder / "text_encoder_2", dtype=dtype, use_safetensors=True
        )
    return networks
