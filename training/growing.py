"""Makes a network deeper without changing what it computes, so that its training can go on.

New layers begin as identities: their last weights are zero, and they have a residual connection.

Source: Chen, Goodfellow and Shlens, "Net2Net", arXiv 1511.05641, section 2.3 (deeper networks).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel

from dehaze.models.plain.unet import layers_of


@torch.no_grad()
def grow(unet: Any, layers: Sequence[int], transformers: Sequence[int]) -> Any:
    """A network that computes what ``unet`` does, with more layers.

    Args:
        unet: a ``UNet2DConditionModel`` whose ``reverse_transformer_layers_per_block`` is given.
        layers: residual layers on the way down, at each level from the top.
        transformers: transformer blocks behind each of these layers, at each level from the top;
            layers without attention stay without it.

    Returns:
        a new ``UNet2DConditionModel``; seed torch first, since some new weights are random.

    Raises:
        ValueError: a level would get fewer layers or blocks than it has, or none are stated for it.

    Example:
        deeper = grow(networks.unet, layers=(1, 2, 2), transformers=(1, 1, 2))
    """
    settings = {k: v for k, v in unet.config.items() if not k.startswith("_")}
    levels = len(settings["block_out_channels"])
    if not len(layers) == len(transformers) == levels:
        raise ValueError(f"the network has {levels} levels: state layers and blocks for each")
    had = layers_of(settings)
    added = [new - old for new, old in zip(layers, had, strict=True)]
    if min(added) < 0:
        raise ValueError(f"layers {list(layers)} are fewer than the network's {had}")
    down = [
        [_more(before[0], blocks)] * count
        for before, count, blocks in zip(
            settings["transformer_layers_per_block"], layers, transformers, strict=True
        )
    ]
    up = [
        [_more(count, blocks) for count in (before[:1] * more + before)]
        for before, more, blocks in zip(
            map(list, settings["reverse_transformer_layers_per_block"]),
            added[::-1],
            reversed(transformers),
            strict=True,
        )
    ]
    settings |= {
        "layers_per_block": list(layers),
        "transformer_layers_per_block": down,
        "reverse_transformer_layers_per_block": up,
    }
    deeper = UNet2DConditionModel.from_config(settings)
    weights = {_moved(name, added[::-1]): value for name, value in unet.state_dict().items()}
    found = deeper.load_state_dict(weights, strict=False)
    assert not found.unexpected_keys, found.unexpected_keys
    for name, module in deeper.named_modules():
        if not any(known.startswith(f"{name}.") for known in weights):
            _make_identity(module)
    return deeper


def _more(blocks: int, wanted: int) -> int:
    """The transformer blocks of a layer: those wanted, where it has any.

    Raises:
        ValueError: it has more.
    """
    if blocks > wanted:
        raise ValueError(f"{wanted} transformer blocks are fewer than the network's {blocks}")
    return wanted if blocks else 0


def _moved(name: str, added: list[int]) -> str:
    """The name of a weight in the deeper network.

    On the way up, a level's layers take the outputs of the way down in reverse order. New layers
    follow its first one, which takes the output of the lowest layer: that of the last new layer.

    Args:
        name: in the network before.
        added: layers added to each level, from the lowest.
    """
    parts = name.split(".")
    if parts[0] == "up_blocks" and parts[2] in ("resnets", "attentions") and parts[3] != "0":
        parts[3] = str(int(parts[3]) + added[int(parts[1])])
    return ".".join(parts)


def _make_identity(module: Any) -> None:
    """Makes a residual layer return its input, or on the way up the part from the layer below."""
    if isinstance(module, ResnetBlock2D):
        last = [module.conv2]
        if module.conv_shortcut is not None:
            channels = module.conv_shortcut.out_channels
            torch.nn.init.zeros_(module.conv_shortcut.weight)
            torch.nn.init.zeros_(module.conv_shortcut.bias)
            module.conv_shortcut.weight[:, :channels, 0, 0] = torch.eye(channels)
    elif isinstance(module, Transformer2DModel):
        last = [module.proj_out]
    elif isinstance(module, BasicTransformerBlock):
        last = [module.attn1.to_out[0], module.attn2.to_out[0], module.ff.net[2]]
    else:
        return
    for layer in last:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
