"""Prompt-to-Prompt control: which steps and tokens of the target follow the source's attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dehaze.prompts import TokenizedPrompt, align_tokens


class ControlError(ValueError):
    """The control cannot be applied with these settings, or to this network."""


@dataclass(frozen=True)
class TokenMapper:
    """Which source token each target token takes its attention map from.

    Attributes:
        source: int64 (L,), for each target position a source position.
        weight: float (L,), 1 where the source's map is used, 0 where the target's own is.
    """

    source: Tensor
    weight: Tensor


@dataclass(frozen=True)
class AttentionControl:
    """Prompt-to-Prompt's settings for one edit.

    Attributes:
        cross_replace_steps: share of the denoising steps, from the first, in which the target uses
            the source's cross-attention maps, in [0, 1].
        self_replace_steps: likewise for self-attention.
        self_replace_positions: self-attention is replaced in layers of at most so many positions.
        mapper: how target tokens follow source tokens; None when every position follows its own.

    Source: Prompt-to-Prompt, arXiv 2208.01626, section 3.2.
    """

    cross_replace_steps: float = 0.8
    self_replace_steps: float = 0.4
    self_replace_positions: int = 32 * 32
    mapper: TokenMapper | None = None

    def __post_init__(self) -> None:
        for name in ("cross_replace_steps", "self_replace_steps"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ControlError(f"{name} is {value}: it is a share of the steps, 0 to 1")

    def replaces_cross(self, i: int, steps: int) -> bool:
        """Whether step i of ``steps`` (N first, 1 last) injects cross-attention."""
        return steps - i < int(self.cross_replace_steps * steps)

    def replaces_self(self, i: int, steps: int) -> bool:
        """Whether step i of ``steps`` (N first, 1 last) injects self-attention."""
        return steps - i < int(self.self_replace_steps * steps)


def refine_mapper(source: TokenizedPrompt, target: TokenizedPrompt) -> TokenMapper:
    """P2P's Refine: aligned tokens follow the source's maps, new tokens keep their own.

    The padding after the shorter prompt follows the padding after the longer one.

    Source: Prompt-to-Prompt, arXiv 2208.01626, section 3.2, "Adding a New Phrase".
    """
    aligned = align_tokens(source.ids[: source.count].tolist(), target.ids[: target.count].tolist())
    length = len(target.ids)
    positions = torch.arange(length)
    weight = torch.ones(length)
    for index, follows in enumerate(aligned):
        if follows < 0:
            weight[index] = 0.0
        else:
            positions[index] = follows
    return TokenMapper(positions, weight)
