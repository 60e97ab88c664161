"""CLIP's text encoder: a causal transformer over a prompt's tokens.

Source: Radford et al., arXiv 2103.00020, section 2.4; the weights' names are transformers'.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dehaze.models.plain.part import PlainPart
from dehaze.models.plain.settings import differing

_FREE = frozenset(
    {
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "max_position_embeddings", "vocab_size", "layer_norm_eps",
    }
)  # fmt: skip
# Settings without effect on the last hidden state of a trained encoder.
_UNUSED = frozenset(
    {
        "architectures", "attention_dropout", "bos_token_id", "dtype", "eos_token_id",
        "initializer_factor", "initializer_range", "pad_token_id", "projection_dim",
        "transformers_version",
    }
)  # fmt: skip
_FIXED: Mapping[str, Any] = {"hidden_act": "quick_gelu", "model_type": "clip_text_model"}


def why_not(config: Mapping[str, Any]) -> str | None:
    """The first setting of a CLIPTextModel that is not implemented here, or None."""
    return differing(config, _FREE, _FIXED, _UNUSED)


@dataclass(frozen=True)
class TextOutput:
    """What the encoder returns; ``last_hidden_state`` is (B, L, D)."""

    last_hidden_state: Tensor


class _SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = (
            projection(hidden).unflatten(-1, (self._heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        projected: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return projected


class _FeedForward(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, hidden: Tensor) -> Tensor:
        inner = self.fc1(hidden)
        fed: Tensor = self.fc2(inner * torch.sigmoid(1.702 * inner))
        return fed


class _Layer(nn.Module):
    def __init__(self, width: int, inner: int, heads: int, eps: float) -> None:
        super().__init__()
        self.self_attn = _SelfAttention(width, heads)
        self.layer_norm1 = nn.LayerNorm(width, eps=eps)
        self.mlp = _FeedForward(width, inner)
        self.layer_norm2 = nn.LayerNorm(width, eps=eps)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.self_attn(self.layer_norm1(hidden))
        fed: Tensor = hidden + self.mlp(self.layer_norm2(hidden))
        return fed


class _Layers(nn.Module):
    def __init__(self, layers: Iterable[_Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, hidden: Tensor) -> Tensor:
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


class _Embeddings(nn.Module):
    def __init__(self, words: int, positions: int, width: int) -> None:
        super().__init__()
        # Not drawn at random: on the meta device that would import PyTorch's compiler.
        self.token_embedding = nn.Embedding.from_pretrained(torch.empty(words, width))
        self.position_embedding = nn.Embedding.from_pretrained(torch.empty(positions, width))

    def forward(self, ids: Tensor) -> Tensor:
        positions = self.position_embedding.weight[: ids.shape[-1]]
        embedded: Tensor = self.token_embedding(ids) + positions
        return embedded


class PlainTextEncoder(PlainPart):
    """A CLIPTextModel whose settings are all implemented, see ``why_not``.

    Args:
        config: of a CLIPTextModel, whole.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.embeddings = _Embeddings(
            config["vocab_size"], config["max_position_embeddings"], width
        )
        self.encoder = _Layers(
            _Layer(width, config["intermediate_size"], config["num_attention_heads"], eps)
            for _ in range(config["num_hidden_layers"])
        )
        self.final_layer_norm = nn.LayerNorm(width, eps=eps)

    def forward(self, ids: Tensor) -> TextOutput:
        """The embedding of tokens, int64 (B, L)."""
        return TextOutput(self.final_layer_norm(self.encoder(self.embeddings(ids))))
