"""Networks of transformers that judge pictures: read from this machine, and whole."""

from __future__ import annotations

from typing import Any

import torch
from safetensors import SafetensorError

from dehaze.errors import first_line
from dehaze.models import ModelError


def load_pretrained(name: str, kind: Any, processor: Any, what: str) -> tuple[Any, Any]:
    """A network from a folder, or from the hub's cache on this machine: nothing is downloaded.

    Args:
        name: the folder, which ``save_pretrained`` wrote, or a hub id. Only weights in safetensors
            are read.
        kind: the network's class, such as ``CLIPModel``.
        processor: the class of what prepares its input, such as ``CLIPProcessor``.
        what: the network in words, for the messages: "CLIP".

    Returns:
        the network in float32, for evaluation, and its processor.

    Raises:
        ModelError: it is not on this machine, or lacks a weight; the message says what helps.
    """
    try:
        network, found = kind.from_pretrained(
            name,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        prepares = processor.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{what} ({name}) is not on this machine: download it, its weights as safetensors and "
            "its processor with them, or name its folder"
        ) from error
    except (SafetensorError, RuntimeError) as error:
        raise ModelError(
            f"{what} ({name}) does not load ({first_line(error)}): get its files again, all of one "
            "model"
        ) from error
    # The library fills what is missing, or of another shape, with random numbers and goes on.
    lacking = sorted({*found["missing_keys"], *(weight for weight, *_ in found["mismatched_keys"])})
    if lacking:
        raise ModelError(
            f"{what} ({name}) lacks the weight {lacking[0]}: get its files again, all of one model"
        )
    return network.eval().requires_grad_(False), prepares


def kind_of_pretrained(name: str, kind: Any, what: str) -> str:
    """The kind of network that config.json names, such as "clip", whatever ``kind`` is.

    Arguments and errors as for ``load_pretrained``.
    """
    try:
        config, _ = kind.config_class.get_config_dict(name, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{what} ({name}) is not on this machine: download it, or name its folder"
        ) from error
    return str(config.get("model_type", "network of an unknown kind"))
