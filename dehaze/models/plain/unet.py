"""The denoising network: a U-Net of residual and attention blocks, as Stable Diffusion 1.x has it.

Modules have diffusers' names, so that weights, attention layers and recordings have the same names.
All operations and their order are diffusers' as well, so that results are equal.

Sources: Rombach et al., arXiv 2112.10752; Ho, Jain and Abbeel, arXiv 2006.11239.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dehaze.models.plain.part import PlainPart
from dehaze.models.plain.settings import differing

_FREE = frozenset(
    {
        "in_channels", "out_channels", "block_out_channels", "layers_per_block", "sample_size",
        "down_block_types", "up_block_types", "cross_attention_dim", "attention_head_dim",
        "norm_num_groups", "norm_eps", "transformer_layers_per_block",
        "reverse_transformer_layers_per_block",
    }
)  # fmt: skip
# Settings of parts that are not there.
_UNUSED = frozenset({"addition_embed_type_num_heads"})
_FIXED: Mapping[str, Any] = {
    "act_fn": "silu",
    "addition_embed_type": None,
    "addition_time_embed_dim": None,
    "attention_type": "default",
    "center_input_sample": False,
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "downsample_padding": 1,
    "dropout": 0.0,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_only_cross_attention": None,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "projection_class_embeddings_input_dim": None,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "upcast_attention": False,
    "use_linear_projection": False,
}
_DOWN, _CROSS_DOWN = "DownBlock2D", "CrossAttnDownBlock2D"
_UP, _CROSS_UP = "UpBlock2D", "CrossAttnUpBlock2D"
_SHAPES = {"block_out_channels", "down_block_types", "up_block_types", "attention_head_dim"}
_PERIOD = 10_000.0


def why_not(config: Mapping[str, Any]) -> str | None:
    """The first setting of a UNet2DConditionModel that is not implemented here, or None."""
    found = differing(config, _FREE, _FIXED, _UNUSED)
    if found is not None:
        return found
    levels = len(config["block_out_channels"])
    for name in sorted(_SHAPES):
        if not isinstance(config[name], list) or len(config[name]) != levels:
            return name
    if not set(config["down_block_types"]) <= {_DOWN, _CROSS_DOWN}:
        return "down_block_types"
    if not set(config["up_block_types"]) <= {_UP, _CROSS_UP}:
        return "up_block_types"
    layers = layers_of(config)
    if len(layers) != levels or not all(isinstance(count, int) for count in layers):
        return "layers_per_block"
    for name in ("cross_attention_dim", "norm_num_groups"):
        if not isinstance(config[name], int):
            return name
    return None


@dataclass(frozen=True)
class NetworkOutput:
    """What the network returns; ``sample`` is (B, C, h, w)."""

    sample: Tensor


class AttentionProcessor:
    """Plain attention; a processor of ``dehaze.attention`` may take its place."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """(B, P, C) -> (B, P, C), across (B, L, D) where that is given."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            projection.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for projection in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        projected: Tensor = attn.to_out[0](attended.transpose(1, 2).flatten(2))
        return projected


class Attention(nn.Module):
    """Self-attention, or cross-attention to a context of its own width.

    The constant attributes are those that diffusers' processors ask any attention layer for.
    """

    spatial_norm = group_norm = norm_q = norm_k = None
    norm_cross = residual_connection = False
    rescale_output_factor = 1.0

    def __init__(self, width: int, heads: int, context_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Identity()])
        self.processor: Any = AttentionProcessor()

    def forward(self, hidden: Tensor, context: Tensor | None = None) -> Tensor:
        attended: Tensor = self.processor(self, hidden, context)
        return attended


class GatedLinear(nn.Module):
    """GEGLU: one half of a projection times the other's GELU."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, hidden: Tensor) -> Tensor:
        values, gate = self.proj(hidden).chunk(2, dim=-1)
        gated: Tensor = values * F.gelu(gate)
        return gated


class FeedForward(nn.Module):
    """Two layers, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = 4 * width
        self.net = nn.ModuleList(
            [GatedLinear(width, inner), nn.Identity(), nn.Linear(inner, width)]
        )

    def forward(self, hidden: Tensor) -> Tensor:
        for layer in self.net:
            hidden = layer(hidden)
        return hidden


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward, each with a residual connection."""

    def __init__(self, width: int, heads: int, context_width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, heads, width)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = Attention(width, heads, context_width)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def forward(self, hidden: Tensor, context: Tensor) -> Tensor:
        hidden = self.attn1(self.norm1(hidden)) + hidden
        hidden = self.attn2(self.norm2(hidden), context) + hidden
        fed: Tensor = self.ff(self.norm3(hidden)) + hidden
        return fed


class Transformer(nn.Module):
    """Transformer blocks over all positions, (B, C, h, w) -> (B, C, h, w)."""

    def __init__(
        self, width: int, heads: int, context_width: int, blocks: int, groups: int
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList(
            [TransformerBlock(width, heads, context_width) for _ in range(blocks)]
        )
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, feature: Tensor, context: Tensor) -> Tensor:
        batch, width, height, breadth = feature.shape
        hidden = self.proj_in(self.norm(feature))
        hidden = hidden.permute(0, 2, 3, 1).reshape(batch, height * breadth, width)
        for block in self.transformer_blocks:
            hidden = block(hidden, context)
        hidden = hidden.reshape(batch, height, breadth, width).permute(0, 3, 1, 2).contiguous()
        projected: Tensor = self.proj_out(hidden) + feature
        return projected


class Residual(nn.Module):
    """Two convolutions with the time embedding between them, and a residual connection."""

    def __init__(self, before: int, after: int, time_width: int, groups: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, before, eps=eps)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_width, after)
        self.norm2 = nn.GroupNorm(groups, after, eps=eps)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(before, after, 1) if before != after else None

    def forward(self, feature: Tensor, time: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(feature)))
        hidden = hidden + self.time_emb_proj(F.silu(time))[:, :, None, None]
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        if self.conv_shortcut is not None:
            feature = self.conv_shortcut(feature)
        return feature + hidden


class Downsampler(nn.Module):
    """Half the height and width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, feature: Tensor) -> Tensor:
        halved: Tensor = self.conv(feature)
        return halved


class Upsampler(nn.Module):
    """To a given height and width, by the nearest neighbour."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, feature: Tensor, size: tuple[int, int]) -> Tensor:
        enlarged: Tensor = self.conv(F.interpolate(feature, size=size, mode="nearest"))
        return enlarged


class Level(nn.Module):
    """Residual blocks, each followed by a transformer where the level has them.

    Attributes are None, and absent among the weights, where the level has no such part.
    """

    downsamplers: nn.ModuleList | None
    upsamplers: nn.ModuleList | None
    attentions: nn.ModuleList | None

    def __init__(
        self,
        residuals: Sequence[Residual],
        transformers: Sequence[Transformer] | None,
        *,
        downsampled: int | None = None,
        upsampled: int | None = None,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(residuals)
        self.attentions = None if transformers is None else nn.ModuleList(transformers)
        self.downsamplers = (
            None if downsampled is None else nn.ModuleList([Downsampler(downsampled)])
        )
        self.upsamplers = None if upsampled is None else nn.ModuleList([Upsampler(upsampled)])

    def step(self, layer: int, feature: Tensor, time: Tensor, context: Tensor) -> Tensor:
        """One residual block and its transformer."""
        feature = self.resnets[layer](feature, time)
        if self.attentions is not None:
            feature = self.attentions[layer](feature, context)
        return feature


class Middle(nn.Module):
    """The lowest level: a transformer between two residual blocks."""

    def __init__(self, residuals: Sequence[Residual], transformer: Transformer) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(residuals)
        self.attentions = nn.ModuleList([transformer])

    def forward(self, feature: Tensor, time: Tensor, context: Tensor) -> Tensor:
        feature = self.attentions[0](self.resnets[0](feature, time), context)
        ended: Tensor = self.resnets[1](feature, time)
        return ended


class TimeEmbedding(nn.Module):
    """Sines and cosines of the timestep, through two layers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self._channels = channels
        self.linear_1 = nn.Linear(channels, 4 * channels)
        self.linear_2 = nn.Linear(4 * channels, 4 * channels)

    def forward(self, timestep: int, batch: int) -> Tensor:
        weight = self.linear_1.weight
        half = self._channels // 2
        exponent = -math.log(_PERIOD) * torch.arange(half, dtype=torch.float32)
        angles = float(timestep) * torch.exp(exponent / half)
        waves = torch.cat([torch.cos(angles), torch.sin(angles)])[None].to(weight)
        embedded: Tensor = self.linear_2(F.silu(self.linear_1(waves.expand(batch, -1))))
        return embedded


@dataclass(frozen=True)
class _Depths:
    """The number of transformer blocks of each layer, level by level, in the network's order."""

    down: Sequence[Sequence[int]]
    middle: int
    up: Sequence[Sequence[int]]


def layers_of(config: Mapping[str, Any]) -> list[int]:
    """The residual blocks of each level on the way down; there is one more on the way up."""
    given = config["layers_per_block"]
    levels = len(config["block_out_channels"])
    return list(given) if isinstance(given, (list, tuple)) else [given] * levels


def _depths(config: Mapping[str, Any]) -> _Depths:
    levels, layers = len(config["block_out_channels"]), layers_of(config)
    given = config["transformer_layers_per_block"]
    down = [given] * levels if isinstance(given, int) else given
    reverse = config["reverse_transformer_layers_per_block"]
    up = list(reversed(down)) if reverse is None else reverse
    lowest = down[-1]
    return _Depths(
        [_of_layers(depth, count) for depth, count in zip(down, layers, strict=True)],
        lowest if isinstance(lowest, int) else lowest[0],
        [_of_layers(depth, count + 1) for depth, count in zip(up, reversed(layers), strict=True)],
    )


def _of_layers(depth: int | Sequence[int], layers: int) -> Sequence[int]:
    return [depth] * layers if isinstance(depth, int) else depth[:layers]


class _Blocks:
    """Makes the levels of a UNet by its config."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.widths: list[int] = config["block_out_channels"]
        self._config = config
        self._layers = layers_of(config)
        self._depths = _depths(config)

    def down(self, level: int, kind: str) -> Level:
        """The level on the way down, 0 at the picture's size; ``kind`` as diffusers names it."""
        width = self.widths[level]
        sizes = [self.widths[max(level - 1, 0)], *[width] * self._layers[level]]
        return Level(
            [self._residual(*pair) for pair in pairwise(sizes)],
            [self._transformer(level, depth) for depth in self._depths.down[level]]
            if kind == _CROSS_DOWN
            else None,
            downsampled=width if level < len(self.widths) - 1 else None,
        )

    def up(self, place: int, kind: str) -> Level:
        """The level on the way up, whose place is 0 at the lowest one."""
        lowest = len(self.widths) - 1
        level = lowest - place
        width, layers = self.widths[level], self._layers[level]
        # Channels of the level below, then of this level, beside those kept on the way down, the
        # last of which are of the level above.
        given = [self.widths[min(level + 1, lowest)], *[width] * layers]
        kept = [*[width] * layers, self.widths[max(level - 1, 0)]]
        return Level(
            [self._residual(a + b, width) for a, b in zip(given, kept, strict=True)],
            [self._transformer(level, depth) for depth in self._depths.up[place]]
            if kind == _CROSS_UP
            else None,
            upsampled=width if level > 0 else None,
        )

    def middle(self) -> Middle:
        """The lowest level, between the two ways."""
        width = self.widths[-1]
        return Middle(
            [self._residual(width, width) for _ in range(2)],
            self._transformer(len(self.widths) - 1, self._depths.middle),
        )

    def _residual(self, before: int, after: int) -> Residual:
        config = self._config
        return Residual(
            before, after, 4 * self.widths[0], config["norm_num_groups"], config["norm_eps"]
        )

    def _transformer(self, level: int, depth: int) -> Transformer:
        config = self._config
        heads, context = config["attention_head_dim"][level], config["cross_attention_dim"]
        return Transformer(self.widths[level], heads, context, depth, config["norm_num_groups"])


class PlainUNet(PlainPart):
    """A UNet2DConditionModel whose settings are all implemented, see ``why_not``.

    Args:
        config: of a UNet2DConditionModel, whole.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        blocks = _Blocks(config)
        widths, groups = blocks.widths, config["norm_num_groups"]
        self.conv_in = nn.Conv2d(config["in_channels"], widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0])
        self.down_blocks = nn.ModuleList(
            blocks.down(level, kind) for level, kind in enumerate(config["down_block_types"])
        )
        self.up_blocks = nn.ModuleList(
            blocks.up(place, kind) for place, kind in enumerate(config["up_block_types"])
        )
        self.mid_block = blocks.middle()
        self.conv_norm_out = nn.GroupNorm(groups, widths[0], eps=config["norm_eps"])
        self.conv_out = nn.Conv2d(widths[0], config["out_channels"], 3, padding=1)
        # Looked up once: each photo's evaluations begin and end with other processors.
        self._attentions = {
            name: module for name, module in self.named_modules() if isinstance(module, Attention)
        }

    @property
    def attn_processors(self) -> dict[str, Any]:
        """The processor of each attention layer, by the layer's name and ``.processor``."""
        return {f"{name}.processor": layer.processor for name, layer in self._attentions.items()}

    def set_attn_processor(self, processors: Mapping[str, Any]) -> None:
        """Gives each attention layer its processor, by the names of ``attn_processors``."""
        for name, layer in self._attentions.items():
            layer.processor = processors[f"{name}.processor"]

    def forward(
        self, sample: Tensor, timestep: int, *, encoder_hidden_states: Tensor
    ) -> NetworkOutput:
        """The network's prediction.

        Args:
            sample: latents, (B, C, h, w).
            timestep: of all samples.
            encoder_hidden_states: text embedding, (B, L, D).
        """
        time = self.time_embedding(timestep, sample.shape[0])
        feature = self.conv_in(sample)
        kept = [feature]
        level: Any
        for level in self.down_blocks:
            for layer in range(len(level.resnets)):
                feature = level.step(layer, feature, time, encoder_hidden_states)
                kept.append(feature)
            if level.downsamplers is not None:
                feature = level.downsamplers[0](feature)
                kept.append(feature)
        feature = self.mid_block(feature, time, encoder_hidden_states)
        for level in self.up_blocks:
            for layer in range(len(level.resnets)):
                feature = torch.cat([feature, kept.pop()], dim=1)
                feature = level.step(layer, feature, time, encoder_hidden_states)
            if level.upsamplers is not None:
                feature = level.upsamplers[0](feature, kept[-1].shape[2:])
        return NetworkOutput(self.conv_out(F.silu(self.conv_norm_out(feature))))
