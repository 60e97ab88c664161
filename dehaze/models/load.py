"""Loads the parts of a text-to-image model: bundled, or from a folder, the hub, or one file.

Weights are read from safetensors only, and no code that comes with a model is ever run. Parts that
do not fit are refused by name: a network with missing or additional weights, two parts of different
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
from dehaze.models.kinds import (
    FLUX,
    KINDS,
    STABLE_DIFFUSION,
    STABLE_DIFFUSION_3,
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
# Their networks have FLUX.1 dev's configuration, but edit a given picture instead of making one
# from text (arXiv 2506.15742).
_OTHER_TASKS = ("FluxKontextPipeline", "FluxKontextInpaintPipeline")
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
        _CHECK_FIT[kind.name](folder, networks)
        tokenizers = {
            tokenizer_of(part): _tokenizer(folder, index, part, network)
            for part, network in networks.items()
            if part.startswith("text_encoder")
        }
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
    if pipeline in _OTHER_TASKS:
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
        fill(network, _t5_names(weights, file), file, dtype)
        _keep_precise(network)
        return
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
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ModelError(f"{path}: {error}") from error
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


def _name_ignored(path: Path, config: Mapping[str, Any], kind: Any) -> None:
    """Logs the settings that a network's class does not know; the weights fit without them."""
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
    """The weights of a text encoder, by the names of the installed transformers.

    Versions differ in whether the inner part is called ``text_model``, also in files. Old files
    hold the numbers of the positions as well, which are constants.
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


def _t5_names(weights: Weights, file: Path) -> Weights:
    """The weights of a T5 encoder with its table of tokens under both of its names.

    Raises:
        ModelError: a file holds two tables that differ.
    """
    shared, own = "shared.weight", "encoder.embed_tokens.weight"
    tables = [weights[name] for name in (shared, own) if name in weights]
    if len(tables) == 2 and not torch.equal(*tables):
        raise ModelError(
            f"{file} holds {shared} and {own}, which are one, and differ: get it again"
        )
    return {**weights, **{name: tables[0] for name in (shared, own) if tables}}


def _keep_precise(network: Any) -> None:
    """Ties T5's two names of one table again, and keeps in float32 what overflows in float16."""
    network.tie_weights()
    if network.dtype == torch.float16:
        for name, module in network.named_modules():
            if name.endswith(".wo"):
                module.float()


def _restore_positions(network: Any) -> None:
    """Gives a text encoder made without weights its one constant: 0, 1, ... (1, L)."""
    embeddings = getattr(network, "text_model", network).embeddings
    embeddings.position_ids = torch.arange(network.config.max_position_embeddings)[None]


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
    if tokenizer.model_max_length > encoder.config.max_position_embeddings:
        raise ModelError(
            f"{path} has model_max_length={tokenizer.model_max_length}, and its text encoder takes "
            f"{encoder.config.max_position_embeddings} tokens: get both of one model"
        )
    return tokenizer


def _check_fit(folder: Path, networks: Mapping[str, Any]) -> None:
    """Refuses networks that do not fit each other, or that need inputs beside text.

    Raises:
        ModelError: the message names the configuration, the setting and what it should be.
    """
    unet, vae = networks["unet"].config, networks["vae"].config
    path = folder / "unet" / "config.json"
    for setting in ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type"):
        _demand(path, setting, unet.get(setting), None)
    # Guidance distilled into the network, as in latent consistency models.
    _demand(path, "time_cond_proj_dim", unet.get("time_cond_proj_dim"), None)
    # An autoencoder's configuration states its channels; a codec's follow from its patches.
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
    _check_codec(folder, vae)


def _check_codec(folder: Path, config: Mapping[str, Any]) -> None:
    for setting in ("latents_mean", "latents_std"):
        _demand(folder / "vae" / "config.json", setting, config.get(setting), None)


def _check_fit_3(folder: Path, networks: Mapping[str, Any]) -> None:
    """``_check_fit`` of Stable Diffusion 3."""
    network, vae = networks["transformer"].config, networks["vae"].config
    path = folder / "transformer" / "config.json"
    for setting in ("in_channels", "out_channels"):
        _demand(path, setting, network[setting], vae["latent_channels"])
    # Attention control and the schedule count positions of 2 x 2 latents.
    _demand(path, "patch_size", network["patch_size"], 2)
    clips = [networks[part].config for part in ("text_encoder", "text_encoder_2")]
    width = int(networks["text_encoder_3"].config.d_model)
    _demand(path, "joint_attention_dim", network["joint_attention_dim"], width)
    rows = sum(int(clip.hidden_size) for clip in clips)
    if rows > width:
        raise ModelError(
            f"{folder} has CLIP encoders of {rows} numbers a token and a T5 of {width}, which is "
            "less: its parts are of different models"
        )
    pooled = sum(int(clip.projection_dim) for clip in clips)
    _demand(path, "pooled_projection_dim", network["pooled_projection_dim"], pooled)
    _check_codec(folder, vae)


def _check_fit_flux(folder: Path, networks: Mapping[str, Any]) -> None:
    """``_check_fit`` of FLUX."""
    network, vae = networks["transformer"].config, networks["vae"].config
    path = folder / "transformer" / "config.json"
    # Four latents a position; models for inpainting or control have further channels.
    _demand(path, "in_channels", network["in_channels"], 4 * int(vae["latent_channels"]))
    _demand(path, "out_channels", network.get("out_channels") or network["in_channels"],
            network["in_channels"])  # fmt: skip
    _demand(path, "patch_size", network["patch_size"], 1)
    width = int(networks["text_encoder_2"].config.d_model)
    _demand(path, "joint_attention_dim", network["joint_attention_dim"], width)
    pooled = int(networks["text_encoder"].config.hidden_size)
    _demand(path, "pooled_projection_dim", network["pooled_projection_dim"], pooled)
    _check_codec(folder, vae)


_CHECK_FIT = {
    STABLE_DIFFUSION.name: _check_fit,
    STABLE_DIFFUSION_3.name: _check_fit_3,
    FLUX.name: _check_fit_flux,
}


def _demand(path: Path, setting: str, value: Any, wanted: Any) -> None:
    if value != wanted:
        raise ModelError(
            f"{path} has {setting}={value}, and only {wanted} can be used with the other parts: it "
            "is a model for another task, or its parts are of different models"
        )
