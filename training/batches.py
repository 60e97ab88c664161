"""What the first stage's steps learn from: pictures, their noise, timesteps and captions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dehaze.prompts import without_word
from training.captions import Caption, clear_caption
from training.networks import Networks, latents_of
from training.noise import GaussianNoise
from training.pool import PoolReader, Shard


@dataclass(frozen=True)
class Batch:
    """What one step learns from: from z_t = sqrt(a_t) target + s_t noise to target.

    Attributes:
        target: (B, C, h, w), the latents that the network should find.
        noise: (B, C, h, w).
        timesteps: int64 (B,).
        captions: of each example, and whether its haze word is swapped for null text.
        clear: the number of examples, the first ones, that start from pure noise; their loss tells
            how well the model dehazes.
        inverted: the examples whose noise is to be found from the picture.
        seen: int64 (B,), the timesteps of z_t; for inverted examples, where an inversion step
            begins, before ``timesteps``.
    """

    target: Tensor
    noise: Tensor
    timesteps: Tensor
    captions: list[tuple[Caption, bool]]
    clear: int
    inverted: slice
    seen: Tensor


BatchSource = Callable[[int, np.random.Generator, torch.Generator], Batch]
"""(number of examples, generators of that step) -> batch."""


def gaussian_noise(networks: Networks, reader: PoolReader, seed: int = 0) -> GaussianNoise:
    """The closed-form noise of what the pool holds."""
    rng = np.random.default_rng(seed)
    latents = []
    for _ in range(12):
        shard = reader.draw(rng)
        for cells in (shard.degraded, shard.clear):
            rows = latents_of(networks, cells[:256])
            latents.append(rows.permute(0, 2, 3, 1).reshape(-1, rows.shape[1]))
    # As one long row of positions, since the sizes differ.
    return GaussianNoise.of(torch.cat(latents).T[None, :, None])


# Error of an inversion, in the latents' units: .01 of the range of a photo's values.
INVERSION_ERROR = 0.04

# Numbers among 64 examples of the first stage.
CLEAR_AT_THE_TOP = 38
DEGRADED = 14
CLEAR_CAPTIONS = 4


def first_batches(
    reader: PoolReader, networks: Networks, noise_of: Callable[[Tensor], Tensor]
) -> BatchSource:
    """The first stage's batches.

    Of 64 examples, 38 are clear photos under their pair's caption with the word swapped for null
    text (one time in four: without the word). They start from the noise of the degraded picture,
    where a step of the model is a regression: the way back. 14 are degraded pictures under their
    captions, 4 clear photos under clear captions, and 8 of all these kinds with normal noise of
    their own.
    """

    def draw(count: int, rng: np.random.Generator, generator: torch.Generator) -> Batch:
        shard = reader.draw(rng)
        parts = Parts(shard, networks, rng, noise_of)
        top = count * CLEAR_AT_THE_TOP // 64
        parts.add_clear(top, generator)
        parts.add_inverted(count * DEGRADED // 64, count * CLEAR_CAPTIONS // 64)
        parts.add_alone(count - parts.count, generator)
        timesteps = draw_sampler_timesteps(count, 1000, generator)
        timesteps[:top] = draw_top_timesteps(top, generator)
        batch = parts.batch(timesteps, top)
        batch.seen[batch.inverted] = draw_seen_timesteps(timesteps[batch.inverted], generator)
        return batch

    return draw


class Parts:
    """A batch that is put together from the pairs of a shard."""

    def __init__(
        self,
        shard: Shard,
        networks: Networks,
        rng: np.random.Generator,
        noise_of: Callable[[Tensor], Tensor] = torch.zeros_like,
    ) -> None:
        self.shard, self.networks, self.noise_of, self.rng = shard, networks, noise_of, rng
        self.targets: list[Tensor] = []
        self.noises: list[Tensor] = []
        self.captions: list[tuple[Caption, bool]] = []
        self.inverted = slice(0, 0)

    @property
    def count(self) -> int:
        """The number of examples so far."""
        return len(self.captions)

    def _latents(self, cells: Tensor, rows: NDArray[np.int64]) -> Tensor:
        # One more than is asked for: torch unshuffles no pictures at all to another shape.
        padded = torch.from_numpy(np.append(rows, 0)).to(cells.device)
        return latents_of(self.networks, cells[padded])[: len(rows)]

    def _rows(self, count: int) -> NDArray[np.int64]:
        return np.sort(self.rng.integers(len(self.shard.captions), size=count))

    def add_clear(self, count: int, generator: torch.Generator) -> None:
        """Clear photos with the noise of what they were degraded to, the word taken away.

        The noise is that of a slightly different picture, as an inversion finds it.
        """
        rows = self._rows(count)
        degraded = self._latents(self.shard.degraded, rows)
        degraded += INVERSION_ERROR * normal_like(degraded, generator)
        self.targets.append(self._latents(self.shard.clear, rows))
        self.noises.append(self.noise_of(degraded))
        self.captions += [taken_away(self.shard.captions[row], self.rng) for row in rows]

    def add_inverted(self, degraded: int, clear: int) -> None:
        """Degraded pictures and clear photos under captions that say so, with their own noise."""
        begin = self.count
        self.add_degraded(degraded)
        self.add_clear_captions(clear)
        self.inverted = slice(begin, self.count)

    def add_degraded(self, count: int) -> None:
        """Degraded pictures under their captions, with their noise."""
        rows = self._rows(count)
        latents = self._latents(self.shard.degraded, rows)
        self.targets.append(latents)
        self.noises.append(self.noise_of(latents))
        self.captions += [(self.shard.captions[row], False) for row in rows]

    def add_clear_captions(self, count: int) -> None:
        """Clear photos under clear captions, with their own noise."""
        latents = self._latents(self.shard.clear, self._rows(count))
        self.targets.append(latents)
        self.noises.append(self.noise_of(latents))
        self.captions += [(clear_caption(self.rng), False) for _ in range(count)]

    def add_alone(self, count: int, generator: torch.Generator) -> None:
        """Pictures of every kind with normal noise, not tied to a pair."""
        rows = self._rows(count)
        latents = self._latents(self.shard.clear, rows)
        degraded = self._latents(self.shard.degraded, rows)
        for position, row in enumerate(rows):
            chance = float(self.rng.random())
            caption = self.shard.captions[row]
            if chance < 0.5:
                latents[position] = degraded[position]
                self.captions.append((caption if chance < 0.46 else Caption(""), False))
            elif chance < 0.8:
                self.captions.append(taken_away(caption, self.rng))
            else:
                self.captions.append((clear_caption(self.rng), False))
        self.targets.append(latents)
        self.noises.append(normal_like(latents, generator))

    def batch(self, timesteps: Tensor, clear: int) -> Batch:
        targets = torch.cat(self.targets)
        return Batch(
            targets,
            torch.cat(self.noises),
            timesteps,
            self.captions,
            clear,
            self.inverted,
            timesteps.clone(),
        )


def taken_away(caption: Caption, rng: np.random.Generator) -> tuple[Caption, bool]:
    """The pipeline's two readings: the word swapped for null text, or left out of the caption."""
    if rng.random() < 0.75:
        return caption, True
    assert caption.word is not None
    return Caption(without_word(caption.text, caption.word)), False


def normal_like(latents: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise in the shape of latents, on the generator's device."""
    return torch.randn(latents.shape, generator=generator, device=generator.device)


def draw_sampler_timesteps(count: int, train_timesteps: int, generator: torch.Generator) -> Tensor:
    """Timesteps (count,) as densely as the noisy-end spacing places its steps."""
    u = torch.rand(count, generator=generator, device=generator.device)
    return ((1.0 - (1.0 - u) ** 1.7) * train_timesteps).long().clamp(max=train_timesteps - 1)


def draw_seen_timesteps(timesteps: Tensor, generator: torch.Generator) -> Tensor:
    """Timesteps (B,) of what an inversion step sees on its way to ``timesteps``.

    A step is implicit, and its iterations begin at z of the step before. Trained on pairs of a
    picture and its noise alone, the network would not know latents in between. Every second example
    sees its own timestep, the others an earlier one, by up to a step of four.
    """
    share = 1.0 - (1.0 - timesteps / 1000.0).clamp(min=0.0) ** (1.0 / 1.7)
    before = (share - 1.0 / 4.0).clamp(min=0.0)
    earliest = 1000.0 * (1.0 - (1.0 - before) ** 1.7)
    back, chance = torch.rand(
        (2, len(timesteps)), generator=generator, device=generator.device
    ).unbind()
    back = back * (chance < 0.5)
    return (timesteps - back * (timesteps - earliest)).round().long().clamp(min=0)


def draw_top_timesteps(count: int, generator: torch.Generator) -> Tensor:
    """Timesteps (count,) of the way back's first step, mostly the sampler's, some near it."""
    device = generator.device
    around = torch.randint(930, 1000, (count,), generator=generator, device=device)
    chance = torch.rand(count, generator=generator, device=device)
    return torch.where(chance < 0.7, 990, around)
