"""What a network is told of the prompt: one text embedding, whichever text encoders made it.

An embedding is one tensor (1, L + r, D): a row for each token, then r rows that hold Stable
Diffusion XL's pooled embedding (P,), filled up with zeros; r = 0 elsewhere. So prompts of every
model are swapped, mixed and optimised alike, and only this module knows of the difference.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def embed_one(text_encoder: Any, ids: Tensor) -> Tensor:
    """Stable Diffusion 1.x and 2.x: the last hidden state, (1, L) -> (1, L, D)."""
    return text_encoder(ids).last_hidden_state


def embed_two(text_encoder: Any, ids: Tensor, text_encoder_2: Any, ids_2: Tensor) -> Tensor:
    """Stable Diffusion XL: both last hidden states but one side by side, and the pooled rows.

    Source: SDXL, arXiv 2307.01952, section 2.1.
    """
    first = text_encoder(ids, output_hidden_states=True).hidden_states[-2]
    output = text_encoder_2(ids_2, output_hidden_states=True)
    tokens = torch.cat([first, output.hidden_states[-2]], dim=-1)
    width = tokens.shape[-1]
    pooled = output.text_embeds
    rows = F.pad(pooled, (0, -pooled.shape[-1] % width)).unflatten(-1, (-1, width))
    return torch.cat([tokens, rows.to(tokens)], dim=1)


def network_arguments(
    unet: Any, embedding: Tensor, tokens: int, pixels: tuple[int, int]
) -> dict[str, Any]:
    """An embedding as the network's keyword arguments.

    Args:
        unet: UNet2DConditionModel.
        embedding: (B, L + r, D).
        tokens: L.
        pixels: (height, width) of the picture, which Stable Diffusion XL is told as the size of the
            original and of the target, uncropped.
    """
    arguments: dict[str, Any] = {"encoder_hidden_states": embedding[:, :tokens]}
    if unet.config.addition_embed_type == "text_time":
        times = 6 * int(unet.config.addition_time_embed_dim)
        size = int(unet.config.projection_class_embeddings_input_dim) - times
        ids = torch.tensor([[*pixels, 0, 0, *pixels]], dtype=embedding.dtype)
        arguments["added_cond_kwargs"] = {
            "text_embeds": embedding[:, tokens:].flatten(1)[:, :size],
            "time_ids": ids.to(embedding.device).expand(len(embedding), -1),
        }
    return arguments
