"""The third stage: the word's attention and the density of the haze."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from dehaze.models.codec import CellsCodec
from training.captions import vocabulary
from training.export import MAP_LAYER
from training.localising import (
    correlation,
    density_of,
    localise,
)
from training.networks import build_networks, build_tokenizer
from training.photos import PhotoCache
from training.pool import PoolReader, fill_pool
from training.train import Run, TrainingSettings


def test_density_is_read_from_a_pair_of_one_transmission() -> None:
    rng = np.random.default_rng(0)
    clear = torch.from_numpy(rng.random((2, 9, 32, 48)).astype(np.float32))
    codec, airlight = CellsCodec(), torch.tensor([0.8, 0.9, 0.7]).repeat(3)[:, None, None]
    for t in (0.3, 0.8):
        hazy = clear * t + airlight * (1.0 - t)
        latents = [codec.unshuffle(cells * 2 - 1) * 2 for cells in (hazy, clear)]
        assert density_of(*latents) == pytest.approx(1.0 - t, abs=0.02)


def test_density_is_that_of_each_place() -> None:
    rng = np.random.default_rng(0)
    clear = torch.from_numpy(rng.random((1, 9, 32, 48)).astype(np.float32))
    t = torch.linspace(0.9, 0.2, 48).expand(1, 1, 32, 48)
    codec = CellsCodec()
    hazy = clear * t + 0.8 * (1.0 - t)
    found = density_of(*(codec.unshuffle(cells * 2 - 1) * 2 for cells in (hazy, clear)))
    assert correlation(found, 1.0 - functional.avg_pool2d(t, 2)[:, 0]) > 0.97


def test_correlation_is_pearsons() -> None:
    first, second = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    expected = [
        np.corrcoef(a.flatten(), b.flatten())[0, 1] for a, b in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(correlation(first, second), expected, atol=1e-5)


def test_only_the_exported_blocks_attention_learns(photo_cache: PhotoCache, tmp_path: Path) -> None:
    fill_pool(photo_cache, tmp_path / "pool", shards=1, most=1, pairs=8)
    torch.manual_seed(0)
    networks = build_networks(build_tokenizer(vocabulary(), tmp_path / "source"))
    run = Run(tmp_path, TrainingSettings(steps=1), "cpu", networks)
    before = {name: value.clone() for name, value in networks.unet.state_dict().items()}
    localise(run, PoolReader(tmp_path / "pool"), TrainingSettings(steps=2, batch_size=4, warmup=1))
    changed = {
        name
        for name, value in run.use_average().unet.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed
    own = (MAP_LAYER, MAP_LAYER.removesuffix("attn2") + "norm2")
    assert all(name.startswith(own) for name in changed)
