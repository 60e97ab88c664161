from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dehaze.inversion import DDIMTable
from training.batches import (
    draw_sampler_timesteps,
    draw_seen_timesteps,
    draw_top_timesteps,
    first_batches,
)
from training.networks import (
    Networks,
    latents_of,
)
from training.noise import GaussianNoise
from training.pool import PoolReader, Shard, shard_paths


def test_both_pictures_of_a_pair_share_their_noise(
    networks: Networks, pool: Path, noise_of: GaussianNoise
) -> None:
    source = first_batches(PoolReader(pool), networks, noise_of)
    batch = source(64, np.random.default_rng(2), torch.Generator().manual_seed(0))
    assert len(batch.captions) == len(batch.target) == len(batch.timesteps) == 64
    shards = [Shard.load(path) for path in shard_paths(pool)]
    size = batch.target.shape[-2:]
    clear, noise = [], []
    for shard in shards:
        if shard.clear.shape[1] * size[1] == shard.clear.shape[2] * size[0]:
            clear += list(latents_of(networks, shard.clear))
            noise += list(noise_of(latents_of(networks, shard.degraded)))
    assert batch.clear == 38
    for target, found in zip(batch.target[:38], batch.noise[:38], strict=True):
        own = [z for j, z in zip(clear, noise, strict=True) if torch.equal(j, target)]
        # The noise of a slightly perturbed picture.
        assert any((z - found).abs().max() < 0.5 for z in own)
    # The rest is at home in normal noise.
    assert batch.noise[-8:].std() == pytest.approx(1.0, abs=0.05)
    assert int(batch.timesteps[: batch.clear].min()) >= 930


def test_timesteps_are_as_dense_as_the_spacing_places_them(networks: Networks) -> None:
    drawn = draw_sampler_timesteps(20_000, 1000, torch.Generator().manual_seed(0))
    assert drawn.min() >= 0
    assert drawn.max() <= 999
    taus = DDIMTable.from_scheduler(networks.scheduler, 10, "noisy-end").timesteps
    # The spacing ends at 99 % of the timesteps, where a step can still be inverted.
    shares = [float((drawn <= tau / 0.99).float().mean()) for tau in taus[:-1]]
    np.testing.assert_allclose(shares, np.arange(1, 10) / 10, atol=0.02)


def test_an_inversion_step_sees_earlier_timesteps() -> None:
    told = torch.tensor([383, 990]).repeat_interleave(4000)
    seen = draw_seen_timesteps(told, torch.Generator().manual_seed(0))
    for timestep, before in ((383, 0), (990, 858)):
        of_it = seen[told == timestep]
        assert 0.4 < float((of_it == timestep).float().mean()) < 0.6
        assert int(of_it.max()) == timestep
        assert abs(int(of_it.min()) - before) < 12


def test_the_way_back_begins_where_the_sampler_does(networks: Networks) -> None:
    drawn = draw_top_timesteps(1000, torch.Generator().manual_seed(0))
    top = DDIMTable.from_scheduler(networks.scheduler, 6, "noisy-end").timesteps[-1]
    assert 0.6 < float((drawn == top).float().mean()) < 0.8
