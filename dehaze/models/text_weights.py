"""Weights of text encoders, from files with old or new names, in any precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dehaze.models import ModelError
from dehaze.models.weights import Weights


def text_names(weights: Weights, network: Any) -> Weights:
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


def t5_names(weights: Weights, file: Path) -> Weights:
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


def keep_precise(network: Any) -> None:
    """Ties T5's two names of one table again, and keeps in float32 what overflows in float16."""
    network.tie_weights()
    if network.dtype == torch.float16:
        for name, module in network.named_modules():
            if name.endswith(".wo"):
                module.float()


def restore_positions(network: Any) -> None:
    """Gives a text encoder made without weights its one constant: 0, 1, ... (1, L)."""
    embeddings = getattr(network, "text_model", network).embeddings
    embeddings.position_ids = torch.arange(network.config.max_position_embeddings)[None]
