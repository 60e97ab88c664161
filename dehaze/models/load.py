"""Loads the parts of a text-to-image model: bundled, or from a folder, the hub, or one file.

Weights are read from safetensors only, and no code that comes with a model is ever run. Parts that
do not fit are refused by name: a network with missing or additional weights, two parts of different
models, a scheduler of another process.
"""

from __future__ import annotations

import inspect
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5EncoderModel,
    T5TokenizerFast,
)

from dehaze.errors import first_line
from dehaze.inversion.ddim import check_scheduler, check_scheduler_class
from dehaze.inversion.flow import check_flow_scheduler, check_flow_scheduler_class
from dehaze.models import ModelError
from dehaze.models.codec import CellsCodec, PixelUnshuffleCodec
from dehaze.models.fit import check_fit
from dehaze.models.kinds import (
    KINDS,
    STABLE_DIFFUSION,
    ModelKind,
    tokenizer_of,
)
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
from dehaze.models.text_weights import keep_precise, restore_positions, t5_names, text_names
from dehaze.models.weights import Weights, fill, read_weights

_CLASSES: dict[str, Any] = {
    "AutoencoderKL": AutoencoderKL,
    "CLIPTextModel": CLIPTextModel,
    "CLIPTextModelWithProjection": CLIPTextModelWithProjection,
    "CellsCodec": CellsCodec,
    "FluxTransformer2DModel": FluxTransformer2DModel,
    "PixelUnshuffleCodec": PixelUnshuffleCodec,
    "SD3Transformer2DModel": SD3Transformer2DModel,
    "T5EncoderModel": T5EncoderModel,
    "UNet2DConditionModel": UNet2DConditionModel,
}
# The class of the tokenizer, by that of its text encoder, and the names that files give it.
_TOKENIZERS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "CLIPTextModel": (CLIPTokenizer, ("CLIPTokenizer", "CLIPTokenizerFast")),
    "CLIPTextModelWithProjection": (CLIPTokenizer, ("CLIPTokenizer", "CLIPTokenizerFast")),
    "T5EncoderModel": (T5TokenizerFast, ("T5Tokenizer", "T5TokenizerFast")),
}
# In the names of pipelines that change a given picture instead of making one from text. Kontext has
# FLUX.1 dev's configuration (arXiv 2506.15742).
_OTHER_TASKS = re.compile("Kontext|Upscale|Depth2Img|ImageVariation|Pix2Pix|LDM3D")
# Beginnings of the names of diffusers' pipelines whose parts are those of a kind of model here.
_FAMILIES = (
    "AutoPipeline",
    "DiffusionPipeline",
    "Flux",
    "LatentConsistencyModel",
    "StableDiffusion",
)
# T5's vocabulary is filled up to a multiple of this number.
_T5_PADDING = 128
# Names of attention weights before diffusers 0.18, as in old files of codecs.
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
        kind = _kind(folder, index)
        scheduler = _scheduler(folder, index, kind)
        # Configurations first, since weights take time.
        networks = {
            part: _without_weights(folder, index, part, classes)
            for part, classes in kind.classes.items()
            if part not in kind.optional or _class_of(folder, index, part) is not None
        }
        check_fit(kind, folder, networks)
        tokenizers = {
            tokenizer_of(part): _tokenizer(folder, index, part, network)
            for part, network in networks.items()
            if part.startswith("text_encoder")
        }
        for part in kind.pooled:
            if part in networks:
                _check_end(folder, part, networks[part], tokenizers[tokenizer_of(part)])
        description = describe(networks[kind.network], networks["vae"], folder)
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
    unet = networks.pop("unet", None)
    return ModelParts(
        unet=unet, scheduler=scheduler, description=description, **tokenizers, **networks
    )


def _kind(folder: Path, index: Mapping[str, Any]) -> ModelKind:
    """The kind of model that an index is of, by its denoising network.

    Raises:
        ModelError: its transformer is of another kind, or its pipeline is for another task.
    """
    pipeline = index.get("_class_name")
    if not isinstance(pipeline, str):
        raise ModelError(f"{folder / INDEX} names no pipeline (_class_name): get it again")
    foreign = pipeline in dir(diffusers) and not pipeline.startswith(_FAMILIES)
    if foreign or _OTHER_TASKS.search(pipeline):
        raise ModelError(
            f"{folder / INDEX} is of a {pipeline}: it is a model for another task, and only "
            "text-to-image models can be used"
        )
    if _class_of(folder, index, "transformer") is None:
        return STABLE_DIFFUSION
    named = _named_class(folder, index, "transformer")
    known = {name: kind for kind in KINDS for name in kind.classes.get("transformer", ())}
    if named not in known:
        raise ModelError(
            f"{folder / INDEX}: transformer is a {named}: there are {', '.join(sorted(known))}"
        )
    return known[named]


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
    if isinstance(network, T5EncoderModel):
        fill(network, t5_names(weights, file), file, dtype)
        keep_precise(network)
        return
    if part.startswith("text_encoder"):
        weights = text_names(weights, network)
        restore_positions(network)
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
    """The name of a part's class in a model's index, or None."""
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


def _scheduler(folder: Path, index: Mapping[str, Any], kind: ModelKind) -> Any:
    """The model's scheduler, of its own class, whose defaults hold for settings left out.

    Raises:
        ModelError: it is of another process than the model's, or its file is missing or torn.
    """
    check_class, check = check_scheduler_class, check_scheduler
    if kind.process == "flow":
        check_class, check = check_flow_scheduler_class, check_flow_scheduler
    named = _named_class(folder, index, "scheduler")
    _check_folder(folder, "scheduler")
    path = folder / "scheduler" / "scheduler_config.json"
    try:
        check_class(named)
        config = _read_json(path)
        check_class(config.get("_class_name", named))
        scheduler = getattr(diffusers, named).from_config(config)
        check(scheduler)
    except ModelError:
        raise
    # The class fails in any way at settings that are no numbers.
    except Exception as error:
        raise ModelError(f"{path}: {first_line(error)}") from error
    return scheduler


def _without_weights(
    folder: Path, index: Mapping[str, Any], part: str, known: tuple[str, ...]
) -> Any:
    """A network of this configuration on the meta device."""
    name = _named_class(folder, index, part)
    _check_folder(folder, part)
    path = folder / part / "config.json"
    config = _read_json(path)
    for named, found in ((folder / INDEX, name), (path, config.get("_class_name", name))):
        if found not in known:
            raise ModelError(f"{named}: {part} is a {found}: there are {', '.join(known)}")
    made = _CLASSES[name]
    if part.startswith("text_encoder"):
        _check_text_config(path, config, made)
    else:
        _check_switches(path, config, made)
    with torch.device("meta"):
        try:
            if part.startswith("text_encoder"):
                return made(made.config_class.from_pretrained(path.parent))
            _name_ignored(path, config, made)
            return made.from_config(config)
        except Exception as error:
            raise ModelError(
                f"{path} makes no {name} ({first_line(error)}): get it again"
            ) from error


def _check_text_config(path: Path, config: Mapping[str, Any], kind: Any) -> None:
    """Refuses the configuration of another kind of text encoder, as transformers names kinds."""
    family = "T5" if issubclass(kind, T5EncoderModel) else "CLIP"
    stated = config.get("model_type", kind.config_class.model_type)
    made = [str(each) for each in config.get("architectures") or ()]
    if not str(stated).upper().startswith(family) or any(
        not each.startswith(family) for each in made
    ):
        raise ModelError(
            f"{path} is of a text encoder of the kind {', '.join([str(stated), *made])}: there is "
            f"{kind.__name__}"
        )


def _check_switches(path: Path, config: Mapping[str, Any], kind: Any) -> None:
    """Refuses texts where settings are true or false; published files have null, too."""
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        value = config.get(name, parameter.default)
        if isinstance(parameter.default, bool) and isinstance(value, str):
            raise ModelError(f"{path} has {name}={value!r}, which must be true or false")


def _name_ignored(path: Path, config: Mapping[str, Any], kind: Any) -> None:
    """Logs the settings that a network's class does not know; the weights fit without them."""
    known = inspect.signature(kind.__init__).parameters
    ignored = [name for name in config if name not in known and not name.startswith("_")]
    if ignored:
        logger.warning("%s: unknown and ignored: %s", path, ", ".join(sorted(ignored)))


def _saved_weights(file: Path) -> Weights:
    """The weights of one file, or of all the files that an index lists, by the networks' names."""
    if file.suffix == ".json":
        listed = _read_json(file).get("weight_map")
        if not isinstance(listed, dict) or not listed:
            raise ModelError(f"{file} lists no files of weights (weight_map): get it again")
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


def _tokenizer(folder: Path, index: Mapping[str, Any], part: str, encoder: Any) -> Any:
    """The tokenizer of a text encoder; each of its tokens has an embedding."""
    name = tokenizer_of(part)
    path = folder / name
    found = _named_class(folder, index, name)
    kind, known = _TOKENIZERS[type(encoder).__name__]
    if found not in known:
        raise ModelError(f"{folder / INDEX}: {name} is a {found}: there is {known[0]}")
    _check_folder(folder, name)
    try:
        tokenizer = kind.from_pretrained(path, local_files_only=True)
    except Exception as error:
        raise ModelError(
            f"{path} makes no tokenizer ({first_line(error)}): get it again"
        ) from error
    # Without these files the library silently makes a tokenizer of almost no tokens.
    known_tokens = int(encoder.config.vocab_size)
    spare = _T5_PADDING if isinstance(encoder, T5EncoderModel) else 1
    if not known_tokens - spare < len(tokenizer) <= known_tokens:
        raise ModelError(
            f"{path} has {len(tokenizer)} tokens, and its text encoder knows {known_tokens}: get "
            "both of one model"
        )
    if isinstance(encoder, T5EncoderModel):
        # Its positions are relative, so texts may have any length.
        return tokenizer
    most = encoder.config.max_position_embeddings
    # A beginning, a word and an end.
    if not 3 <= tokenizer.model_max_length <= most:
        raise ModelError(
            f"{path} has model_max_length={tokenizer.model_max_length}, and its text encoder takes "
            f"3 to {most} tokens: get both of one model"
        )
    return tokenizer


def _check_end(folder: Path, part: str, encoder: Any, tokenizer: Any) -> None:
    """Refuses a text encoder that does not find the end of a text, where it sums the text up.

    Raises:
        ModelError: its end is another token than its tokenizer's.
    """
    end = encoder.config.eos_token_id
    # 2 is what old configurations state; the encoder then takes the token of the highest number.
    if end not in (2, tokenizer.eos_token_id):
        raise ModelError(
            f"{folder / part / 'config.json'} has eos_token_id={end}, and the end of its "
            f"tokenizer's texts is {tokenizer.eos_token_id}: get both of one model"
        )
