"""Loads a model without diffusers and transformers, if all of it is implemented here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dehaze.errors import one_line
from dehaze.models import ModelError
from dehaze.models.needs import describe
from dehaze.models.parts import ModelParts
from dehaze.models.plain import scheduler as schedules
from dehaze.models.plain import text, tokenizer, unet
from dehaze.models.plain.part import PlainPart
from dehaze.models.plain.settings import differing
from dehaze.models.source import INDEX, WEIGHTS
from dehaze.models.unshuffling import CellsUnshuffling, PixelUnshuffling
from dehaze.models.weights import fill, read_weights

# The file of each part's configuration.
_CONFIGS = {
    "unet": "unet/config.json",
    "text_encoder": "text_encoder/config.json",
    "vae": "vae/config.json",
    "scheduler": "scheduler/scheduler_config.json",
    "tokenizer": "tokenizer/tokenizer_config.json",
}
_INSIDE_OF_TEXT = "text_model."


class _PlainCodec(PlainPart):
    settings: frozenset[str]

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self.register_buffer("anchor", torch.zeros(1))


class PlainPixelUnshuffleCodec(PixelUnshuffling, _PlainCodec):
    """``dehaze.models.codec.PixelUnshuffleCodec``."""

    settings = frozenset({"patch_size", "scaling_factor"})


class PlainCellsCodec(CellsUnshuffling, _PlainCodec):
    """``dehaze.models.codec.CellsCodec``."""

    settings = frozenset({"cell_size", "patch_size", "scaling_factor"})


_CODECS = {"PixelUnshuffleCodec": PlainPixelUnshuffleCodec, "CellsCodec": PlainCellsCodec}


def why_not(folder: Path) -> str | None:
    """The first file and setting of a model that are not implemented here, or None.

    Args:
        folder: in diffusers' format.

    Raises:
        OSError, ValueError, KeyError: it is no such folder, or a file in it is damaged.
    """
    index = _read(folder / INDEX)
    classes = {name: entry[1] for name, entry in index.items() if isinstance(entry, list)}
    wanted = {
        "unet": ("UNet2DConditionModel",),
        "text_encoder": ("CLIPTextModel",),
        "vae": tuple(_CODECS),
        "scheduler": ("DDIMScheduler",),
        "tokenizer": ("CLIPTokenizer",),
    }
    for part, names in wanted.items():
        if classes.get(part) not in names:
            return f"{INDEX}: {part}"
    if set(index) - set(wanted) - {"_class_name", "_diffusers_version"}:
        return INDEX
    codec = _CODECS[classes["vae"]]
    checks: dict[str, Callable[[Mapping[str, Any]], str | None]] = {
        "unet": unet.why_not,
        "text_encoder": text.why_not,
        "vae": lambda config: differing(config, codec.settings, {}),
        "scheduler": schedules.why_not,
        "tokenizer": tokenizer.why_not,
    }
    for part, check in checks.items():
        setting = check(_read(folder / _CONFIGS[part]))
        if setting is not None:
            return f"{_CONFIGS[part]}: {setting}"
    return None


def is_plain(folder: Path) -> bool:
    """Whether all of a model is implemented here.

    It is False for a damaged folder, too; ``dehaze.models.load.load_parts`` then names the damage.
    """
    try:
        return why_not(folder) is None
    except (OSError, ValueError, KeyError, TypeError):
        return False


def load_plain_parts(folder: Path, torch_dtype: torch.dtype | None = None) -> ModelParts:
    """The parts of a model whose files are known to fit together, such as the bundled one.

    Args:
        folder: in diffusers' format; ``is_plain`` holds.
        torch_dtype: of the network and the text encoder; float32 when None.

    Raises:
        ModelError: weights are missing or damaged, or the tokenizer is.
    """
    configs = {part: _read(folder / path) for part, path in _CONFIGS.items()}
    kind = _CODECS[_read(folder / INDEX)["vae"][1]]
    dtype = torch_dtype or torch.float32
    with torch.device("meta"):
        network = unet.PlainUNet(configs["unet"])
        encoder = text.PlainTextEncoder(configs["text_encoder"])
        codec = kind(configs["vae"])
    for part, module, its_dtype in (
        ("unet", network, dtype),
        ("text_encoder", encoder, dtype),
        ("vae", codec, torch.float32),
    ):
        path = folder / part / f"{WEIGHTS[part]}.safetensors"
        fill(module, _plain_names(read_weights(path)), path, its_dtype)
    try:
        words = tokenizer.PlainTokenizer(folder / "tokenizer")
    except Exception as error:
        raise ModelError(
            f"{folder / 'tokenizer'} makes no tokenizer ({one_line(error)}): get it again"
        ) from error
    scheduler = schedules.DDIMScheduler(configs["scheduler"])
    description = describe(network, codec, folder)
    return ModelParts(codec, encoder, words, network, scheduler, description)


def _plain_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by plain names; text encoders are saved with or without their inner part's name."""
    return {name.removeprefix(_INSIDE_OF_TEXT): value for name, value in weights.items()}


def _read(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no JSON object")
    return content
