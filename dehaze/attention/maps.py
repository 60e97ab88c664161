"""Attention maps of a word: where in the photo the network attends to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dehaze.attention.control import ControlError
from dehaze.attention.probabilities import attention_map, on_tokens, text_attention
from dehaze.attention.session import record_name
from dehaze.levels import from_levels, to_levels

Array = NDArray[np.float32]


def grid_of(positions: int, latent_size: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) of a layer's map, from its number of positions.

    Each level of the network halves the latent's size, rounding up.

    Raises:
        ControlError: no number of halvings gives that many positions.
    """
    height, width = latent_size
    while height * width > positions and (height > 1 or width > 1):
        height, width = (height + 1) // 2, (width + 1) // 2
    if height * width != positions:
        raise ControlError(f"no halving of a {latent_size} latent has {positions} positions")
    return height, width


def recorded_layers(record: Mapping[str, Tensor], kind: str = "text") -> dict[str, list[int]]:
    """The layers in a recording, each with its recorded steps, ascending.

    Args:
        record: queries and keys as an ``AttentionSession`` recorded them.
        kind: ``cross``, ``joint`` or ``self``; ``text`` for cross and joint.
    """
    kinds = ("cross", "joint") if kind == "text" else (kind,)
    layers: dict[str, list[int]] = {}
    for name in record:
        layer, its_kind, tensor, step = name.split("|")
        if its_kind in kinds and tensor == "query":
            layers.setdefault(layer, []).append(int(step))
    return {layer: sorted(steps) for layer, steps in layers.items()}


def is_joint(record: Mapping[str, Tensor], layer: str, step: int) -> bool:
    """Whether a recorded layer is one of joint attention."""
    return record_name(layer, "joint", "query", step) in record


def grid_of_layer(
    record: Mapping[str, Tensor], layer: str, step: int, latent_size: tuple[int, int]
) -> tuple[int, int]:
    """The (height, width) of a recorded layer's map."""
    kind = "joint" if is_joint(record, layer, step) else "cross"
    return grid_of(record[record_name(layer, kind, "query", step)].shape[2], latent_size)


def attended(
    record: Mapping[str, Tensor],
    layer: str,
    step: int,
    spans: Sequence[Sequence[int]],
    device: torch.device | None = None,
) -> Tensor:
    """Probability on spans of tokens at each position of a recorded layer: float32 (n, B, P).

    It is summed over a span and averaged over heads. It is smaller in joint attention, where the
    picture attends to itself as well.

    Args:
        record: queries and keys as an ``AttentionSession`` recorded them.
        layer: its name.
        step: i.
        spans: n spans, each the positions of its tokens.
        device: to compute on; the recording's own when None.
    """
    joint = is_joint(record, layer, step)
    kind, of_key = ("joint", step) if joint else ("cross", 0)
    key = record[record_name(layer, kind, "key", of_key)].to(device).float()
    # A long recording may lie partly in the host's memory.
    query = record[record_name(layer, kind, "query", step)].to(key)
    if joint:
        chosen = torch.zeros(key.shape[2], len(spans))
        for column, span in enumerate(spans):
            chosen[list(span), column] = 1.0
        return text_attention(query, key, chosen).mean(1).movedim(-1, 0)
    weights = attention_map(query, key, query.shape[-1] ** -0.5)
    return torch.stack([on_tokens(weights, span).mean(1) for span in spans])


def word_map(
    record: Mapping[str, Tensor],
    span: Sequence[int],
    latent_size: tuple[int, int],
    *,
    layers: Mapping[str, float] | None = None,
    steps: Sequence[int] | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Mean attention probability on a word's tokens, over heads, layers and steps.

    Args:
        record: queries and keys as an ``AttentionSession`` recorded them.
        span: the word's token positions.
        latent_size: (H, W) of the latent.
        layers: weight of each layer, by name; equal weights when None. A layer that attends to the
            word outside of the thing gets a negative weight.
        steps: steps to average; all recorded ones when None.
        device: to compute on; the recording's own when None.

    Returns:
        float32 (B, H, W); a probability, in [0, 1], with equal weights. The outermost positions of
        each layer of cross-attention are left out, see ``without_frame``.

    Raises:
        ControlError: nothing was recorded for what was asked.

    Source: Prompt-to-Prompt, arXiv 2208.01626, section 3.1; DAAM, arXiv 2210.04885.
    """
    recorded = recorded_layers(record)
    weights = dict.fromkeys(recorded, 1.0) if layers is None else dict(layers)
    missing = sorted(set(weights) - set(recorded))
    if missing or not weights:
        raise ControlError(
            f"no cross-attention was recorded for {', '.join(missing) or 'any layer'}"
        )
    total = sum(abs(weight) for weight in weights.values())
    heat = torch.zeros(())
    for layer, weight in weights.items():
        chosen = [step for step in recorded[layer] if steps is None or step in steps]
        if not chosen:
            raise ControlError(f"none of the steps {steps} was recorded for {layer}")
        for step in chosen:
            (on_word,) = attended(record, layer, step, [span], device)
            grid = on_word.unflatten(1, grid_of(on_word.shape[1], latent_size))[:, None]
            if not is_joint(record, layer, step):
                # Only convolutions see zeros beyond the edge, so joint attention keeps its frame.
                grid = without_frame(grid)
            fitted = torch.nn.functional.interpolate(
                grid, size=latent_size, mode="bilinear", align_corners=False
            )
            heat = heat.to(fitted) + fitted[:, 0] * (weight / total / len(chosen))
    return heat


def without_frame(grid: Tensor) -> Tensor:
    """A layer's map (..., H, W) whose outermost positions have the values of their neighbours.

    Convolutions see zeros beyond the picture's edge, so the queries at the edge differ from those
    inside, and the map would show a frame one position wide. A map of fewer than 3 positions a side
    is returned as it is.
    """
    if min(grid.shape[-2:]) < 3:
        return grid
    inside = grid[..., 1:-1, 1:-1]
    return torch.nn.functional.pad(inside, (1, 1, 1, 1), mode="replicate")


def grid_maps(
    record: Mapping[str, Tensor], span: Sequence[int], latent_size: tuple[int, int]
) -> dict[str, Array]:
    """The word's map in each layer at each recorded step: float32 (n, H, W), step n first.

    Arguments and errors as ``word_map``; only the first sample of a batch is looked at.
    """
    return {
        layer: np.stack(
            [
                word_map(record, span, latent_size, layers={layer: 1.0}, steps=[step])[0]
                .cpu()
                .numpy()
                for step in reversed(steps)
            ]
        )
        for layer, steps in recorded_layers(record).items()
    }


def normalised(heat: Array) -> Array:
    """The map stretched to [0, 1], for pictures only; a flat map becomes 0."""
    low, high = float(heat.min()), float(heat.max())
    return np.asarray((heat - low) / max(high - low, 1e-12), dtype=np.float32)


def overlay(pixels: Array, heat: Array, opacity: float = 0.55) -> Array:
    """The photo under a heat map in false colours.

    Args:
        pixels: float32 (H, W, 3) RGB in [0, 1].
        heat: float32 (H, W) in [0, 1].
        opacity: of the colours, in [0, 1].

    Returns:
        float32 (H, W, 3) RGB in [0, 1].
    """
    colours = from_levels(cv2.applyColorMap(to_levels(heat), cv2.COLORMAP_INFERNO)[..., ::-1])
    return np.asarray((1.0 - opacity) * pixels + opacity * colours, dtype=np.float32)
