"""Loads networks of transformers that judge pictures, and refuses those that lack a weight."""

from __future__ import annotations

import logging
from typing import Any

import torch
from safetensors import SafetensorError

from dehaze.errors import first_line
from dehaze.models import ModelError

logger = logging.getLogger(__name__)


def load_pretrained(name: str, kind: Any, processor: Any, what: str) -> tuple[Any, Any]:
    """As ``load_network``, from safetensors alone; returns the network and its processor.

    Args:
        name, kind, what: see ``load_network``.
        processor: the class of what prepares its input, such as ``CLIPProcessor``.
    """
    network = load_network(name, kind, what, use_safetensors=True)
    try:
        return network, processor.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError) as error:
        raise _missing(name, what) from error


def load_network(name: str, kind: Any, what: str, **settings: Any) -> Any:
    """A network from a folder, or from the hub's cache on this machine: nothing is downloaded.

    Args:
        name: the folder, which ``save_pretrained`` wrote, or a hub id.
        kind: the network's class, such as ``CLIPModel``.
        what: the network in words, for the messages: "CLIP".
        settings: of ``from_pretrained``.

    Returns:
        the network in float32, for evaluation.

    Raises:
        ModelError: it is not on this machine, lacks a weight, or has one that is not finite; the
            message says what helps.
    """
    try:
        network, found = kind.from_pretrained(
            name,
            dtype=torch.float32,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **settings,
        )
    except (OSError, ValueError) as error:
        raise _missing(name, what) from error
    except (SafetensorError, RuntimeError) as error:
        raise ModelError(
            f"{what} ({name}) does not load ({first_line(error)}): get its files again, all of one "
            "model"
        ) from error
    # The library silently fills weights that are missing or of another shape with random numbers.
    lacking = sorted({*found["missing_keys"], *(weight for weight, *_ in found["mismatched_keys"])})
    if lacking:
        raise ModelError(
            f"{what} ({name}) lacks the weight {lacking[0]}: get its files again, all of one model"
        )
    # Published files may have a head for another task, which is not used.
    unused = sorted(found["unexpected_keys"])
    if unused:
        logger.warning(
            "%s (%s): %d weights are not used, the first is %s", what, name, len(unused), unused[0]
        )
    for weight, value in network.state_dict().items():
        if not torch.isfinite(value).all():
            raise ModelError(f"{what} ({name}): the weight {weight} is not finite: get it again")
    return network.eval().requires_grad_(False)


def kind_of_pretrained(name: str, kind: Any, what: str) -> str:
    """The kind of network that config.json names, such as "clip", whatever ``kind`` is.

    Arguments and errors as for ``load_network``.
    """
    try:
        config, _ = kind.config_class.get_config_dict(name, local_files_only=True)
    except (OSError, ValueError) as error:
        raise _missing(name, what) from error
    return str(config.get("model_type", "network of an unknown kind"))


def _missing(name: str, what: str) -> ModelError:
    return ModelError(
        f"{what} ({name}) is not on this machine: download all its files, the weights as "
        "safetensors, or name its folder"
    )
