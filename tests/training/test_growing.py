"""Deeper networks that compute the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from diffusers import UNet2DConditionModel

from training.__main__ import main
from training.growing import grow
from training.networks import Networks, load_networks


def small(layers: tuple[int, int], attention: list[list[int]]) -> Any:
    """A network of two levels; its residual layers all have an effect."""
    torch.manual_seed(1)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=layers,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        transformer_layers_per_block=[[1] * count for count in layers],
        reverse_transformer_layers_per_block=attention,
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
    )


def output(network: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    latents, context = (
        torch.randn(shape, generator=generator) for shape in ((2, 4, 8, 8), (2, 5, 8))
    )
    return torch.as_tensor(network(latents, 300, context).sample)


@pytest.mark.parametrize(
    ("had", "attention", "layers", "transformers"),
    [
        ((1, 1), [[1, 1], [0, 1]], (1, 2), (1, 1)),
        ((1, 1), [[1, 1], [0, 1]], (2, 3), (2, 2)),
        ((1, 2), [[1, 1, 1], [1, 1]], (3, 3), (1, 3)),
        ((1, 1), [[1, 1], [0, 1]], (1, 1), (1, 1)),
    ],
)
def test_a_deeper_network_computes_the_same_and_learns(
    had: tuple[int, int],
    attention: list[list[int]],
    layers: tuple[int, int],
    transformers: tuple[int, int],
) -> None:
    before = small(had, attention)
    deeper = grow(before, layers, transformers)
    torch.testing.assert_close(output(deeper), output(before))
    assert deeper.config.layers_per_block == list(layers)
    old, new = (sum(1 for _ in network.parameters()) for network in (before, deeper))
    assert (new > old) == ((layers, transformers) != (had, (1, 1)))
    output(deeper).square().mean().backward()
    last = [module.conv2 for name, module in deeper.named_modules() if name.endswith("resnets.1")]
    assert all(layer.weight.grad.abs().max() > 0 for layer in last)


@pytest.mark.parametrize(
    ("layers", "transformers", "cause"),
    [((1, 1), (1, 1), "fewer"), ((1, 2), (1, 0), "fewer"), ((1, 2, 2), (1, 1, 1), "2 levels")],
)
def test_a_network_cannot_shrink(
    layers: tuple[int, ...], transformers: tuple[int, ...], cause: str
) -> None:
    with pytest.raises(ValueError, match=cause):
        grow(small((1, 2), [[1, 1, 1], [0, 1]]), layers, transformers)


@pytest.mark.slow
def test_the_command_writes_a_deeper_model(networks: Networks, tmp_path: Path) -> None:
    networks.save(tmp_path / "model")
    arguments = ["grow", "--initial", str(tmp_path / "model"), "-o", str(tmp_path / "deeper")]
    arguments += ["--transformers", "1,1,2", "--layers"]
    result = CliRunner().invoke(main, [*arguments, "1,2,3"])
    assert result.exit_code == 0, result.output
    deeper = load_networks(tmp_path / "deeper")
    assert deeper.unet.config.layers_per_block == [1, 2, 3]
    for wrong, cause in (("1,2", "3 levels"), ("1,1,1", "fewer"), ("deep", "whole numbers")):
        result = CliRunner().invoke(main, [*arguments, wrong])
        assert result.exit_code != 0
        assert cause in result.output
