"""The haze attention map's own loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.batches import first_batches
from training.export import MAP_LAYER
from training.localising import MAP_WEIGHT, MapLoss, correlation, word_attention
from training.networks import word_mask
from training.noise import GaussianNoise
from training.pool import PoolReader
from training.train import Run, TrainingSettings, losses_of


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run", TrainingSettings(batch_size=16, seed=3), "cpu")


def test_a_words_attention_is_the_mean_over_its_tokens() -> None:
    probabilities = torch.rand(2, 3, 4, 5)
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[0, 1:3] = mask[1, 4] = True
    found = word_attention(probabilities, mask)
    torch.testing.assert_close(found[0], probabilities[0, :, :, 1:3].mean((0, 2)))
    torch.testing.assert_close(found[1], probabilities[1, :, :, 4].mean(0))


def test_the_loss_is_the_missing_correlation(run: Run, pool: Path, noise_of: GaussianNoise) -> None:
    networks = run.networks
    loss = MapLoss(networks)
    batches = first_batches(PoolReader(pool), networks, noise_of)
    batch = batches(32, np.random.default_rng(0), torch.Generator().manual_seed(0))
    with torch.no_grad():
        losses_of(networks, batch)
    captions = [caption for caption, _ in batch.captions[batch.degraded]]
    attention = word_attention(
        loss.processor.probabilities[batch.degraded], word_mask(networks.tokenizer, captions)
    ).reshape(batch.density.shape)
    varied = batch.density.flatten(1).std(1) > 0.02
    assert 0 < int(varied.sum()) < len(varied)
    expected = MAP_WEIGHT * (1.0 - correlation(attention, batch.density)[varied]).mean()
    torch.testing.assert_close(loss(batch), expected)
    flat = replace(batch, density=torch.full_like(batch.density, 0.4))
    assert loss(flat).item() == 0.0


def test_the_loss_trains_the_maps_attention(run: Run, pool: Path, noise_of: GaussianNoise) -> None:
    loss = MapLoss(run.networks)
    batches = first_batches(PoolReader(pool), run.networks, noise_of)
    batch = batches(16, np.random.default_rng(0), torch.Generator().manual_seed(0))
    losses_of(run.networks, batch)
    loss(batch).backward()
    attention = run.networks.unet.get_submodule(MAP_LAYER)
    assert attention.to_q.weight.grad.abs().max() > 0
    assert attention.to_k.weight.grad.abs().max() > 0
    # The map needs the attention's shares alone.
    assert attention.to_v.weight.grad is None


def test_correlation_is_pearsons() -> None:
    first, second = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    expected = [
        np.corrcoef(a.flatten(), b.flatten())[0, 1] for a, b in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(correlation(first, second), expected, atol=1e-5)
