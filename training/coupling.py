"""Second stage: the model learns from noise that its own inversion found.

A pair is a degraded picture I under its caption and the clear photo J under the caption with the
word swapped for null text. In the first stage both have one noise z, the closed form of a Gaussian
(``training.noise``). The model's own inversion finds that noise only nearly, and the difference
costs quality. Here the running average of the weights inverts I of each pair, and the model learns
J from the noise z that was found:

    z_t = sqrt(a_t) x + s_t z.

Inverted pairs are kept in chunks, which are renewed during training. Where the network has to find
the noise of a picture, the target stays the closed form, so that the noise does not drift.

Source: Liu, Gong and Liu, "Flow Straight and Fast", arXiv 2209.03003, section 2 (reflow; here the
two pictures of a pair share their noise).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dehaze.inversion import DDIMTable
from dehaze.inversion import invert as invert_latents
from training.batches import (
    Batch,
    Parts,
    draw_sampler_timesteps,
    draw_seen_timesteps,
    draw_top_timesteps,
    taken_away,
)
from training.captions import Caption
from training.export import INVERSION
from training.networks import Networks, bfloat16_where_fast, embed_captions, latents_of
from training.pool import PoolReader
from training.train import Run, TrainingSettings

logger = logging.getLogger(__name__)

# Size of a chunk, in batches.
CHUNK_BATCHES = 2

COUPLED = TrainingSettings(
    steps=1200, warmup=100, decay=0.65, ema_decay=0.993, checkpoint_every=100
)


@dataclass(frozen=True)
class Chunk:
    """Pairs of one working size, with the noise that the model's inversion found.

    Attributes:
        clear: float32 (n, C, h, w), latents of the clear photos.
        noise: float32 (n, C, h, w), z of their degraded pictures.
        captions: of ``clear``, and whether the word is swapped for null text.
    """

    clear: Tensor
    noise: Tensor
    captions: list[tuple[Caption, bool]]


@dataclass(frozen=True)
class _CaptionedNetwork:
    """A network under a caption for each sample, (B, L, D): see ``NoiseNetwork``."""

    unet: Any
    table: DDIMTable
    context: Tensor
    cost: int = 1

    def __call__(self, latents: Tensor, i: int, index: Tensor) -> Tensor:
        output = self.unet(latents, self.table.timestep(i), self.context[index]).sample.float()
        return self.table.predicted_noise(output, latents, i)


@torch.no_grad()
def invert(networks: Networks, latents: Tensor, captions: list[Caption]) -> Tensor:
    """The noise (B, C, h, w) of pictures, by inversion under their captions."""
    latents = latents.to(networks.unet.device)
    table = DDIMTable.from_scheduler(networks.scheduler, INVERSION.steps, INVERSION.spacing)
    with bfloat16_where_fast(networks.unet.device.type):
        context = embed_captions(networks, [(caption, False) for caption in captions])
        network = _CaptionedNetwork(networks.unet, table, context)
        last = invert_latents(network, latents, INVERSION).latents
    # z_N = sqrt(a_N) x + s_N z, solved for z.
    alpha = table.alphas[-1]
    return torch.as_tensor((last - alpha**0.5 * latents) / (1.0 - alpha) ** 0.5)


@contextmanager
def averaged(run: Run) -> Iterator[Networks]:
    """Inside, the run's networks have the running average of their weights."""
    run.average.store(run.parameters)
    run.average.copy_to(run.parameters)
    try:
        yield run.networks
    finally:
        run.average.restore(run.parameters)


def make_chunk(run: Run, reader: PoolReader, rng: np.random.Generator) -> Chunk:
    """Draws pairs of the pool and inverts them with the running average of the weights."""
    pairs = CHUNK_BATCHES * run.settings.batch_size
    shard = reader.draw_pairs(rng, pairs)
    drawn = np.sort(rng.choice(len(shard.captions), pairs, replace=False))
    captions = [shard.captions[row] for row in drawn]
    targets = [taken_away(caption, rng) for caption in captions]
    rows = torch.from_numpy(drawn).to(shard.clear.device)
    with averaged(run) as networks:
        degraded = latents_of(networks, shard.degraded[rows])
        noise = invert(networks, degraded, captions)
    clear = latents_of(run.networks, shard.clear[rows])
    return Chunk(clear, noise, targets)


# Examples of each kind among 64 of the second stage.
CLEAR_AT_THE_TOP = 38
FIRST_STAGE_CLEAR = 4
DEGRADED = 14
CLEAR_CAPTIONS = 3


class CoupledBatches:
    """The second stage's batches, from chunks that are renewed during training.

    Of 64 examples, 38 are clear photos of a chunk at the noisy end, with the noise that the
    inversion found. The others are drawn from the pool as in the first stage: 4 clear photos at
    the noisy end, 14 degraded pictures, 3 clear photos under clear captions, and 5 pictures of any
    kind with independent normal noise.

    Args:
        run: the training run; the running average of its weights inverts.
        reader: draws shards of the pool.
        noise_of: from latents to their closed-form noise.
        chunks: most chunks kept; a new one replaces the oldest.
        every: steps from one new chunk to the next.
    """

    def __init__(
        self,
        run: Run,
        reader: PoolReader,
        noise_of: Callable[[Tensor], Tensor],
        chunks: int,
        every: int,
    ) -> None:
        self.run, self.reader, self.noise_of, self.every = run, reader, noise_of, every
        self.most = chunks
        self.chunks: deque[Chunk] = deque(maxlen=chunks)
        self._drawn = 0

    def __call__(self, count: int, rng: np.random.Generator, generator: torch.Generator) -> Batch:
        while len(self.chunks) < max(1, self.most // 4):
            self.chunks.append(make_chunk(self.run, self.reader, rng))
        # Chunks come twice as often until their number is complete.
        every = self.every if len(self.chunks) == self.most else max(1, self.every // 2)
        if self._drawn % every == 0:
            self.chunks.append(make_chunk(self.run, self.reader, rng))
        self._drawn += 1
        chunk = self.chunks[int(rng.integers(len(self.chunks)))]
        return self._batch(chunk, count, rng, generator)

    def _batch(
        self, chunk: Chunk, count: int, rng: np.random.Generator, generator: torch.Generator
    ) -> Batch:
        own, first, degraded, captions = (
            count * share // 64
            for share in (CLEAR_AT_THE_TOP, FIRST_STAGE_CLEAR, DEGRADED, CLEAR_CAPTIONS)
        )
        rows = rng.integers(len(chunk.captions), size=own)
        shard = self.reader.draw_pairs(rng, count, chunk.clear.shape)
        parts = Parts(shard, self.run.networks, rng, self.noise_of)
        parts.add_clear(first, generator)
        parts.add_inverted(degraded, captions)
        parts.add_alone(count - own - parts.count, generator)
        timesteps = draw_sampler_timesteps(count, 1000, generator)
        timesteps[: own + first] = draw_top_timesteps(own + first, generator)
        rest = parts.batch(timesteps[own:], 0)
        rest.seen[rest.inverted] = draw_seen_timesteps(rest.timesteps[rest.inverted], generator)
        inverted, pictures = (
            slice(own + part.start, own + part.stop) for part in (parts.inverted, parts.degraded)
        )
        return Batch(
            torch.cat([chunk.clear[rows], rest.target]),
            torch.cat([chunk.noise[rows], rest.noise]),
            timesteps,
            [*(chunk.captions[row] for row in rows), *rest.captions],
            own,
            inverted,
            pictures,
            parts.density,
            torch.cat([timesteps[:own], rest.seen]),
        )
