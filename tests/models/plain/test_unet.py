"""The network against diffusers' UNet2DConditionModel, bit for bit."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from dehaze.models.plain.unet import PlainUNet, why_not
from dehaze.models.source import BUNDLED_FOLDER

SMALL = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 24,
    "attention_head_dim": [2, 4],
    "norm_num_groups": 8,
}
# As the network that training makes: attention at the lower two levels and in one block at the top.
CELLS = SMALL | {
    "block_out_channels": [16, 24, 32],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D"] * 3,
    "attention_head_dim": [2, 3, 4],
    "layers_per_block": [1, 2, 2],
    "transformer_layers_per_block": [[1], [1, 1], [2, 2]],
    "reverse_transformer_layers_per_block": [[2, 2, 2], [1, 1, 1], [0, 1]],
}
TWO_LAYERS = SMALL | {"layers_per_block": 2, "transformer_layers_per_block": 2}


def whole_config(network: UNet2DConditionModel) -> dict[str, Any]:
    """The configuration with every default written out, as in a file."""
    config: dict[str, Any] = json.loads(network.to_json_string())
    return config


def both(settings: dict[str, Any]) -> tuple[UNet2DConditionModel, PlainUNet]:
    torch.manual_seed(0)
    theirs = UNet2DConditionModel.from_config(settings).eval()
    ours = PlainUNet(whole_config(theirs)).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, ours


@pytest.mark.parametrize("settings", [SMALL, CELLS, TWO_LAYERS], ids=["small", "cells", "two"])
@pytest.mark.parametrize("size", [(8, 8), (8, 12), (12, 20)])
@torch.no_grad()
def test_the_output_is_that_of_diffusers(settings: dict[str, Any], size: tuple[int, int]) -> None:
    theirs, ours = both(settings)
    assert why_not(whole_config(theirs)) is None
    latents, embedding = torch.randn(2, 4, *size), torch.randn(2, 7, 24)
    for timestep in (0, 437, 999):
        expected = theirs(latents, timestep, encoder_hidden_states=embedding).sample
        found = ours(latents, timestep, encoder_hidden_states=embedding).sample
        assert torch.equal(found, expected)


@torch.no_grad()
def test_sizes_that_do_not_halve_evenly_work_as_well() -> None:
    theirs, ours = both(CELLS)
    latents, embedding = torch.randn(1, 4, 7, 9), torch.randn(1, 7, 24)
    expected = theirs(latents, 500, encoder_hidden_states=embedding).sample
    assert torch.equal(ours(latents, 500, encoder_hidden_states=embedding).sample, expected)


@torch.no_grad()
def test_half_precision_is_that_of_diffusers() -> None:
    theirs, ours = (network.to(torch.bfloat16) for network in both(SMALL))
    latents, embedding = torch.randn(1, 4, 8, 8).bfloat16(), torch.randn(1, 7, 24).bfloat16()
    expected = theirs(latents, 437, encoder_hidden_states=embedding).sample
    assert torch.equal(ours(latents, 437, encoder_hidden_states=embedding).sample, expected)


def test_layers_and_processors_have_the_names_of_diffusers() -> None:
    theirs, ours = both(CELLS)
    assert set(ours.state_dict()) == set(theirs.state_dict())
    assert list(ours.attn_processors) == list(theirs.attn_processors)


def test_the_bundled_network_has_nothing_beyond() -> None:
    config = json.loads((BUNDLED_FOLDER / "unet" / "config.json").read_text())
    assert why_not(config) is None


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("act_fn", "gelu"),
        ("addition_embed_type", "text_time"),
        ("attention_head_dim", 8),
        ("class_embed_type", "timestep"),
        ("cross_attention_dim", [24, 24]),
        ("down_block_types", ["DownBlock2D", "AttnDownBlock2D"]),
        ("flip_sin_to_cos", False),
        ("layers_per_block", [1, 2, 2]),
        ("layers_per_block", [1, "two"]),
        ("mid_block_type", None),
        ("norm_num_groups", None),
        ("up_block_types", ["UpBlock2D", "AttnUpBlock2D"]),
        ("upcast_attention", True),
        ("use_linear_projection", True),
        ("a_setting_of_tomorrow", 1),
    ],
)
def test_another_setting_is_named(setting: str, value: Any) -> None:
    config = whole_config(both(SMALL)[0])
    assert why_not(config) is None
    assert why_not(config | {setting: value}) == setting
