"""Loads the parts of a text-to-image model: the bundled one, a folder's, a hub id's, or a file's.

Weights are safetensors only, and no code that comes with a model is ever run. What does not fit
together is refused by name: a network with a weight too few or too many, two parts of different
models, a scheduler of another process.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from dehaze.errors import first_line
from dehaze.inversion.schedule import check_scheduler, check_scheduler_class
from dehaze.models import ModelError
from dehaze.models.codec import CellsCodec, PixelUnshuffleCodec
from dehaze.models.needs import describe
from dehaze.models.parts import ModelParts
from dehaze.models.single_file import SingleFile
from dehaze.models.source import (
    INDEX,
    ModelSource,
    find_layout,
    find_model,
    find_weights,
    has_variant,
)
from dehaze.models.weights import Weights, fill, read_weights

_CLASSES = {
    "unet": {"UNet2DConditionModel": UNet2DConditionModel},
    "vae": {
        "AutoencoderKL": AutoencoderKL,
        "CellsCodec": CellsCodec,
        "PixelUnshuffleCodec": PixelUnshuffleCodec,
    },
    "text_encoder": {"CLIPTextModel": CLIPTextModel},
    "text_encoder_2": {"CLIPTextModelWithProjection": CLIPTextModelWithProjection},
}
# Names that diffusers' attention had before its version 0.18: old files of codecs have them.
_ATTENTION = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}

logger = logging.getLogger(__name__)


def load_parts(
    source: ModelSource, torch_dtype: torch.dtype | None = None, *, place: Path | None = None
) -> ModelParts:
    """Loads the parts of a model in diffusers' format, or of one file in the original format.

    Args:
        source: which model, see ``find_model`` and ``find_layout`` of ``dehaze.models.source``.
        torch_dtype: of the network and the text encoder; float32 when None. The codec stays in
            float32: Stable Diffusion's overflows in half precision.
        place: what ``find_model`` returned for the source, where that is known already.

    Raises:
        ModelError: the model is missing, incomplete, damaged, or of a kind that is not supported;
            the message is one line that names the file.
    """
    place = find_model(source) if place is None else place
    single = SingleFile(place) if place.is_file() else None
    folder = place if single is None else find_layout(source, place)
    _check_variant(source, folder, single)
    index = _read_json(folder / INDEX)
    try:
        second = _class_of(folder, index, "text_encoder_2") is not None
        scheduler = _scheduler(folder, index)
        # Configurations first: weights are what takes time.
        networks = {
            part: _without_weights(folder, index, part)
            for part in _CLASSES
            if second or part != "text_encoder_2"
        }
        _check_fit(folder, networks)
        tokenizers = {
            part.replace("text_encoder", "tokenizer"): _tokenizer(folder, index, part, network)
            for part, network in networks.items()
            if part.startswith("text_encoder")
        }
        description = describe(networks["unet"], networks["vae"], folder)
        for part, network in networks.items():
            dtype = torch.float32 if part == "vae" else torch_dtype or torch.float32
            _load_weights(source, folder, single, part, network, dtype)
        if single is not None:
            single.check_all_used()
    except ModelError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{source.model} cannot be loaded: {first_line(error)}") from error
    if index.get("force_zeros_for_empty_prompt"):
        description = replace(description, zero_null_text=True)
    return ModelParts(scheduler=scheduler, description=description, **tokenizers, **networks)


def _load_weights(
    source: ModelSource,
    folder: Path,
    single: SingleFile | None,
    part: str,
    network: Any,
    dtype: torch.dtype,
) -> None:
    if single is None:
        file = find_weights(source, folder, part)
        weights = _saved_weights(file)
    else:
        file, weights = single.file, single.weights(part, network)
    if part.startswith("text_encoder"):
        weights = _text_names(weights, network)
        _restore_positions(network)
    fill(network, weights, file, dtype)


def _check_variant(source: ModelSource, folder: Path, single: SingleFile | None) -> None:
    variant = source.variant
    if variant is not None and (single is not None or not has_variant(folder, variant)):
        raise ModelError(
            f"{source.model} has no weights of the variant {variant!r}: leave --variant out"
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{path.parent} has no {path.name}: a text-to-image model in diffusers' format has one"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is no whole JSON file ({error}): get it again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is no JSON object: get it again")
    return content


def _class_of(folder: Path, index: Mapping[str, Any], part: str) -> str | None:
    """The name of a part's class in a model's index; None where the model has no such part."""
    entry = index.get(part)
    if entry is None or entry == [None, None]:
        return None
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[1], str):
        raise ModelError(f"{folder / INDEX}: {part} is no pair of a library and a class: {entry}")
    return entry[1]


def _named_class(folder: Path, index: Mapping[str, Any], part: str) -> str:
    name = _class_of(folder, index, part)
    if name is None:
        raise ModelError(f"{folder / INDEX} has no {part}: it is no text-to-image model by itself")
    return name


def _check_folder(folder: Path, part: str) -> None:
    if not (folder / part).is_dir():
        raise ModelError(
            f"{folder} has no {part}: a text-to-image model in diffusers' format has one"
        )


def _scheduler(folder: Path, index: Mapping[str, Any]) -> Any:
    """The model's scheduler, of its own class: a setting that is left out has that class's default.

    Raises:
        ModelError: it is of another process than DDIM's, or its file is missing or torn.
    """
    named = _named_class(folder, index, "scheduler")
    _check_folder(folder, "scheduler")
    path = folder / "scheduler" / "scheduler_config.json"
    try:
        check_scheduler_class(named)
        config = _read_json(path)
        check_scheduler_class(config.get("_class_name", named))
        scheduler = getattr(diffusers, named).from_config(config)
        check_scheduler(scheduler)
    except ModelError:
        raise
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ModelError(f"{path}: {error}") from error
    return scheduler


def _without_weights(folder: Path, index: Mapping[str, Any], part: str) -> Any:
    """A network as its configuration has it, on the meta device."""
    name = _named_class(folder, index, part)
    _check_folder(folder, part)
    path = folder / part / "config.json"
    config = _read_json(path)
    classes: dict[str, Any] = _CLASSES[part]
    for named, found in ((folder / INDEX, name), (path, config.get("_class_name", name))):
        if found not in classes:
            raise ModelError(f"{named}: {part} is a {found}: there are {', '.join(classes)}")
    with torch.device("meta"):
        try:
            if part.startswith("text_encoder"):
                return classes[name](CLIPTextConfig.from_pretrained(path.parent))
            _name_ignored(path, config, classes[name])
            return classes[name].from_config(config)
        except Exception as error:
            raise ModelError(
                f"{path} makes no {name} ({first_line(error)}): get it again"
            ) from error


def _name_ignored(path: Path, config: Mapping[str, Any], kind: Any) -> None:
    """Says which settings a network's class does not know; the weights fit without them."""
    known = inspect.signature(kind.__init__).parameters
    ignored = [name for name in config if name not in known and not name.startswith("_")]
    if ignored:
        logger.warning("%s: unknown and ignored: %s", path, ", ".join(sorted(ignored)))


def _saved_weights(file: Path) -> Weights:
    """The weights of one file, or of all the files that an index lists, by the networks' names."""
    if file.suffix == ".json":
        listed = _read_json(file).get("weight_map", {})
        weights: dict[str, Tensor] = {}
        for name in sorted(set(listed.values())):
            weights |= read_weights(file.parent / str(name))
    else:
        weights = read_weights(file)
    for old, new in _ATTENTION.items():
        weights = {
            name.replace(old, new) if ".attentions." in name else name: value
            for name, value in weights.items()
        }
    return weights


def _text_names(weights: Weights, network: Any) -> Weights:
    """The weights of a text encoder by the names that the installed transformers gives them.

    Whether its inner part is called ``text_model`` has changed from version to version, and with it
    what is written into files. The numbers of the positions, which old files hold, are constants.
    """
    inside = "text_model."
    bare = {name.removeprefix(inside): value for name, value in weights.items()}
    bare.pop("embeddings.position_ids", None)
    prefixed = any(name.startswith(inside) for name in network.state_dict())
    outside = "text_projection."
    return {
        name if not prefixed or name.startswith(outside) else inside + name: value
        for name, value in bare.items()
    }


def _restore_positions(network: Any) -> None:
    """Gives a text encoder that was made without weights its one constant: 0, 1, ... (1, L)."""
    embeddings = getattr(network, "text_model", network).embeddings
    embeddings.position_ids = torch.arange(network.config.max_position_embeddings)[None]


def _tokenizer(folder: Path, index: Mapping[str, Any], part: str, encoder: Any) -> Any:
    """The tokenizer of a text encoder, which has an embedding for each of its tokens."""
    name = part.replace("text_encoder", "tokenizer")
    path = folder / name
    found = _named_class(folder, index, name)
    if found not in ("CLIPTokenizer", "CLIPTokenizerFast"):
        raise ModelError(f"{folder / INDEX}: {name} is a {found}: there is CLIPTokenizer")
    _check_folder(folder, name)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(path, local_files_only=True)
    except Exception as error:
        raise ModelError(
            f"{path} makes no tokenizer ({first_line(error)}): get it again"
        ) from error
    # Without its files the library makes a tokenizer of next to no tokens, and says nothing.
    if len(tokenizer) != encoder.config.vocab_size:
        raise ModelError(
            f"{path} has {len(tokenizer)} tokens, and its text encoder knows "
            f"{encoder.config.vocab_size}: get both of one model"
        )
    if tokenizer.model_max_length > encoder.config.max_position_embeddings:
        raise ModelError(
            f"{path} has model_max_length={tokenizer.model_max_length}, and its text encoder takes "
            f"{encoder.config.max_position_embeddings} tokens: get both of one model"
        )
    return tokenizer


def _check_fit(folder: Path, networks: Mapping[str, Any]) -> None:
    """Refuses networks that do not belong together, or that need what no text-to-image model has.

    Raises:
        ModelError: the message names the configuration, the setting and what it should be.
    """
    unet, vae = networks["unet"].config, networks["vae"].config
    path = folder / "unet" / "config.json"
    for setting in ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type"):
        _demand(path, setting, unet.get(setting), None)
    # A guidance that is distilled into the network, as in latent consistency models.
    _demand(path, "time_cond_proj_dim", unet.get("time_cond_proj_dim"), None)
    # An autoencoder's configuration states its channels; those of a codec follow from its patches.
    latents = vae.get("latent_channels") or networks["vae"].latent_channels
    _demand(path, "in_channels", unet["in_channels"], latents)
    _demand(path, "out_channels", unet["out_channels"], latents)
    encoders = [networks[part].config for part in ("text_encoder", "text_encoder_2")
                if part in networks]  # fmt: skip
    width = sum(int(encoder.hidden_size) for encoder in encoders)
    _demand(path, "cross_attention_dim", unet["cross_attention_dim"], width)
    second = len(encoders) == 2
    _demand(path, "addition_embed_type", unet.get("addition_embed_type"),
            "text_time" if second else None)  # fmt: skip
    if second:
        size = 6 * int(unet["addition_time_embed_dim"]) + int(encoders[1].projection_dim)
        setting = "projection_class_embeddings_input_dim"
        _demand(path, setting, unet[setting], size)
    for setting in ("latents_mean", "latents_std"):
        _demand(folder / "vae" / "config.json", setting, vae.get(setting), None)


def _demand(path: Path, setting: str, value: Any, wanted: Any) -> None:
    if value != wanted:
        raise ModelError(
            f"{path} has {setting}={value}, and only {wanted} can be used with the other parts: it "
            "is a model for another task, or its parts are of different models"
        )
