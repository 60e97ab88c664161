"""The prompt as a network reads it: one text embedding, from one to three text encoders.

An embedding is one tensor (1, L + r, D): a row for each token, then r rows that hold the pooled
embedding (P,) of Stable Diffusion XL, 3 or FLUX, filled up with zeros; r = 0 elsewhere. So prompts
of all models are swapped, mixed and optimised alike. Only this module knows the difference.

Stable Diffusion 3 reads the rows of both CLIPs side by side, then T5's. FLUX reads T5's rows and
CLIP's pooled embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dehaze.models.kinds import FLUX, STABLE_DIFFUSION_3, has_distilled_guidance, kind_of


def embed_one(text_encoder: Any, ids: Tensor) -> Tensor:
    """Stable Diffusion 1.x and 2.x: the last hidden state, (1, L) -> (1, L, D)."""
    return text_encoder(ids).last_hidden_state


def embed_two(text_encoder: Any, ids: Tensor, text_encoder_2: Any, ids_2: Tensor) -> Tensor:
    """Stable Diffusion XL: both encoders' last hidden state but one, side by side, and pooled rows.

    Source: SDXL, arXiv 2307.01952, section 2.1.
    """
    first = text_encoder(ids, output_hidden_states=True).hidden_states[-2]
    output = text_encoder_2(ids_2, output_hidden_states=True)
    tokens = torch.cat([first, output.hidden_states[-2]], dim=-1)
    return torch.cat([tokens, _pooled_rows(output.text_embeds, tokens)], dim=1)


def embed_three(encoders: Sequence[Any], ids: Sequence[Tensor]) -> Tensor:
    """Stable Diffusion 3: the rows of two CLIPs, of T5, and both pooled embeddings.

    Args:
        encoders: CLIP, CLIP, T5.
        ids: int64 (1, L') of each.

    Source: Esser et al., arXiv 2403.03206, section 5.1, and diffusers' pipeline.
    """
    outputs = [
        encoder(own, output_hidden_states=True)
        for encoder, own in zip(encoders[:2], ids[:2], strict=True)
    ]
    clip = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    t5 = encoders[2](ids[2]).last_hidden_state
    tokens = torch.cat([F.pad(clip, (0, t5.shape[-1] - clip.shape[-1])).to(t5), t5], dim=1)
    pooled = torch.cat([output.text_embeds for output in outputs], dim=-1)
    return torch.cat([tokens, _pooled_rows(pooled, tokens)], dim=1)


def embed_flux(encoders: Sequence[Any], ids: Sequence[Tensor]) -> Tensor:
    """FLUX: the rows of T5, and the pooled embedding of CLIP.

    Args:
        encoders: CLIP, T5.
        ids: int64 (1, L') of each.

    Source: diffusers' pipeline.
    """
    tokens = encoders[1](ids[1]).last_hidden_state
    return torch.cat([tokens, _pooled_rows(encoders[0](ids[0]).pooler_output, tokens)], dim=1)


def _pooled_rows(pooled: Tensor, tokens: Tensor) -> Tensor:
    """A pooled embedding (1, P) as rows (1, r, D) of the width of ``tokens``."""
    width = tokens.shape[-1]
    rows = F.pad(pooled, (0, -pooled.shape[-1] % width)).unflatten(-1, (-1, width))
    return rows.to(tokens)


def network_arguments(
    unet: Any, embedding: Tensor, tokens: int, pixels: tuple[int, int]
) -> dict[str, Any]:
    """An embedding as the network's keyword arguments.

    Args:
        unet: UNet2DConditionModel.
        embedding: (B, L + r, D).
        tokens: L.
        pixels: (height, width) of the picture, which Stable Diffusion XL is given as the original
            and the target size, uncropped.
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


def network_output(
    network: Any,
    latents: Tensor,
    timestep: float,
    embedding: Tensor,
    tokens: int,
    pixels: tuple[int, int],
    guidance_scale: float,
) -> Tensor:
    """What any network returns for latents under an embedding.

    Args:
        network: UNet2DConditionModel, SD3Transformer2DModel or FluxTransformer2DModel.
        latents: (B, C, h, w), in the network's precision.
        timestep: of all samples.
        embedding: (B, L + r, D), likewise.
        tokens: L.
        pixels: (height, width) of the picture.
        guidance_scale: of a network whose guidance is distilled into it; without effect elsewhere.

    Returns:
        (B, C, h, w).
    """
    kind = kind_of(network)
    if kind not in (STABLE_DIFFUSION_3, FLUX):
        arguments = network_arguments(network, embedding, tokens, pixels)
        return network(latents, timestep, **arguments).sample
    arguments = {
        "encoder_hidden_states": embedding[:, :tokens],
        "pooled_projections": embedding[:, tokens:].flatten(1)[
            :, : int(network.config.pooled_projection_dim)
        ],
    }
    times = torch.full((len(latents),), timestep, device=latents.device)
    if kind is STABLE_DIFFUSION_3:
        return network(latents, timestep=times, **arguments).sample
    if has_distilled_guidance(network):
        arguments["guidance"] = torch.full_like(times, guidance_scale)
    height, width = (side // 2 for side in latents.shape[-2:])
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    positions = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).flatten(0, 1)
    # Each position of the network holds a square of 2 x 2 of the latents.
    packed = F.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)
    output = network(
        packed,
        timestep=times.to(latents.dtype) / 1000.0,
        img_ids=positions.to(latents.device, torch.float32),
        txt_ids=torch.zeros(tokens, 3, device=latents.device),
        **arguments,
    ).sample
    return F.pixel_shuffle(output.transpose(1, 2).unflatten(2, (height, width)), 2)
