"""Hooks that move a part between devices are found wherever they lie."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers.hooks import apply_group_offloading
from torch import nn

from dehaze.models.hooks import is_offloaded


def part() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU()))


def test_a_part_that_stays_has_none() -> None:
    whole = part()
    # A part may lack a layer.
    whole.register_module("absent", None)
    assert not is_offloaded(whole)


@pytest.mark.parametrize("kind", ["leaf_level", "block_level"])
def test_groups_of_layers_are_found(kind: str) -> None:
    whole, cpu = part(), torch.device("cpu")
    apply_group_offloading(whole, cpu, cpu, offload_type=kind, num_blocks_per_group=1)
    assert is_offloaded(whole)


@pytest.mark.parametrize("place", ["", "1", "1.0"])
def test_the_hook_of_accelerate_is_found(place: str) -> None:
    whole = part()
    vars(whole.get_submodule(place))["_hf_hook"] = SimpleNamespace(execution_device="cpu")
    assert is_offloaded(whole)
