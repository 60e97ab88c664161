"""A loss that teaches the haze word's attention where the haze is.

The other losses hardly train the haze attention map, whose values then hardly follow the density.
This one is 1 - r, with r the correlation of the word's attention with the rendered density 1 - t.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from training.batches import Batch
from training.export import MAP_LAYER
from training.networks import Networks, word_mask

# Weight of 1 - r beside the other losses.
MAP_WEIGHT = 0.1
# Pairs whose density varies less than this standard deviation have no correlation. Of appearances
# other than haze it is 0 everywhere.
LEAST_VARIATION = 0.02


class RecordingProcessor:
    """Plain cross-attention that keeps its probabilities, (B, heads, positions, tokens)."""

    probabilities: Tensor

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        batch = len(hidden_states)
        query, key, value = (
            attn.head_to_batch_dim(project(states))
            for project, states in (
                (attn.to_q, hidden_states),
                (attn.to_k, encoder_hidden_states),
                (attn.to_v, encoder_hidden_states),
            )
        )
        scores = attn.get_attention_scores(query, key, attention_mask)
        self.probabilities = scores.reshape(batch, -1, *scores.shape[1:]).float()
        mixed = attn.batch_to_head_dim(torch.bmm(scores, value))
        return torch.as_tensor(attn.to_out[1](attn.to_out[0](mixed)))


class MapLoss:
    """The loss of the haze attention map, (1 - r) ``MAP_WEIGHT``.

    Args:
        networks: from now on their network keeps the attention of the map's layer.
    """

    def __init__(self, networks: Networks) -> None:
        self.networks = networks
        self.processor = RecordingProcessor()
        networks.unet.get_submodule(MAP_LAYER).set_processor(self.processor)

    def __call__(self, batch: Batch) -> Tensor:
        """The mean loss over the degraded pictures of a batch, just after the network has seen it.

        Returns:
            a scalar; 0 where no picture's density varies.
        """
        density = batch.density.to(self.networks.unet.device)
        captions = [caption for caption, _ in batch.captions[batch.degraded]]
        attention = word_attention(
            self.processor.probabilities[batch.degraded],
            word_mask(self.networks.tokenizer, captions),
        )
        varied = (density.flatten(1).std(1) > LEAST_VARIATION).float()
        agreement = correlation(attention.reshape(density.shape), density)
        missing = ((1.0 - agreement) * varied).sum() / varied.sum().clamp(min=1.0)
        return MAP_WEIGHT * missing


def word_attention(probabilities: Tensor, mask: Tensor) -> Tensor:
    """A word's attention (B, positions): the mean over heads and over the word's tokens.

    Args:
        probabilities: (B, heads, positions, tokens).
        mask: bool (B, tokens), true at the word's tokens.
    """
    word = mask.to(probabilities)
    shares = word / word.sum(1, keepdim=True)
    return torch.einsum("bhpt,bt->bp", probabilities, shares) / probabilities.shape[1]


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's correlation (B,) of two maps (B, h, w)."""
    first, second = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (first, second))
    product = (first * second).sum(1)
    return product / (first.square().sum(1) * second.square().sum(1) + 1e-12).sqrt()
