"""Attention probabilities, as pure functions of queries and keys."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def attention_map(query: Tensor, key: Tensor, scale: float, mask: Tensor | None = None) -> Tensor:
    """softmax(scale Q K^T + mask): (B, heads, P, d), (B, heads, L, d) -> (B, heads, P, L)."""
    scores = scale * query @ key.transpose(-1, -2)
    return (scores if mask is None else scores + mask).softmax(-1)


def text_attention(query: Tensor, key: Tensor, chosen: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) times a matrix that is the same for all heads.

    With a unit column for a token it gives that token's column of the map, and the map of
    (positions, L + positions) is never formed.

    Args:
        query: (B, heads, P, d).
        key: (B, heads, L + P, d).
        chosen: (L + P, n).

    Returns:
        (B, heads, P, n).
    """
    value = chosen.to(query).expand(*key.shape[:2], -1, -1)
    return F.scaled_dot_product_attention(query, key, value)


def on_tokens(probabilities: Tensor, positions: Sequence[int]) -> Tensor:
    """The probability on some tokens together: (..., L) -> (...); 0 where there are none."""
    if not positions:
        return probabilities.new_zeros(probabilities.shape[:-1])
    # Not indexed by a list, which PyTorch copies to an accelerator and waits for.
    return torch.stack([probabilities[..., position] for position in positions], -1).sum(-1)
