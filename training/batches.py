"""Batches of the first stage: pictures, their noise, timesteps and captions."""

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
    """The examples of one step: from z_t = sqrt(a_t) target + s_t noise, the network finds target.

    Attributes:
        target: (B, C, h, w), the latents that the network should find.
        noise: (B, C, h, w).
        timesteps: int64 (B,).
        captions: of each example, and whether its haze word is swapped for null text.
        clear: number of examples, at the front, that start from pure noise; their loss measures
            dehazing.
        inverted: slice of the examples whose noise the network has to find from the picture.
        degraded: slice of those among them that are degraded pictures.
        density: float32 (n, h, w), the haze's 1 - t in the degraded pictures.
        seen: int64 (B,), the timesteps of z_t. For inverted examples this is where an inversion
            step begins, at or before ``timesteps``.
    """

    target: Tensor
    noise: Tensor
    timesteps: Tensor
    captions: list[tuple[Caption, bool]]
    clear: int
    inverted: slice
    degraded: slice
    density: Tensor
    seen: Tensor


BatchSource = Callable[[int, np.random.Generator, torch.Generator], Batch]
"""(number of examples, NumPy's generator of the step, torch's) -> batch."""


def gaussian_noise(networks: Networks, reader: PoolReader, seed: int = 0) -> GaussianNoise:
    """The closed-form inversion, fitted to some of the pool's shards."""
    rng = np.random.default_rng(seed)
    latents = []
    for _ in range(12):
        shard = reader.draw(rng)
        for cells in (shard.degraded, shard.clear):
            rows = latents_of(networks, cells[:256])
            latents.append(rows.permute(0, 2, 3, 1).reshape(-1, rows.shape[1]))
    # Shards differ in size, so all positions are joined into one row.
    return GaussianNoise.of(torch.cat(latents).T[None, :, None])


# Standard deviation of an inversion's error, in latent units: 0.01 of a photo's range.
INVERSION_ERROR = 0.04

# Examples of each kind among 64 of the first stage.
CLEAR_AT_THE_TOP = 38
DEGRADED = 14
CLEAR_CAPTIONS = 4


def first_batches(
    reader: PoolReader, networks: Networks, noise_of: Callable[[Tensor], Tensor]
) -> BatchSource:
    """The first stage's batches.

    Of 64 examples, 38 are clear photos under their pair's caption, with the word swapped for null
    text in three of four and left out in the fourth. They start from the noise of the degraded
    picture and teach the denoising step. 14 are degraded pictures under their captions, 4 are clear
    photos under clear captions, and 8 are pictures of all these kinds with independent normal
    noise.
    """

    def draw(count: int, rng: np.random.Generator, generator: torch.Generator) -> Batch:
        shard = reader.draw_pairs(rng, count)
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
    """Collects examples from the pairs of a shard, kind by kind, for one batch."""

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
        self.inverted = self.degraded = slice(0, 0)
        self.density = torch.zeros(0)

    @property
    def count(self) -> int:
        """The number of examples so far."""
        return len(self.captions)

    def _latents(self, cells: Tensor, rows: NDArray[np.int64]) -> Tensor:
        # torch cannot unshuffle an empty batch, so one picture more is taken and dropped.
        padded = torch.from_numpy(np.append(rows, 0)).to(cells.device)
        return latents_of(self.networks, cells[padded])[: len(rows)]

    def _rows(self, count: int) -> NDArray[np.int64]:
        return np.sort(self.rng.integers(len(self.shard.captions), size=count))

    def add_clear(self, count: int, generator: torch.Generator) -> None:
        """Adds clear photos with the noise of their degraded pictures; the captions lose the word.

        The degraded picture is perturbed first, since an inversion finds its noise only nearly.
        """
        rows = self._rows(count)
        degraded = self._latents(self.shard.degraded, rows)
        degraded += INVERSION_ERROR * normal_like(degraded, generator)
        self.targets.append(self._latents(self.shard.clear, rows))
        self.noises.append(self.noise_of(degraded))
        self.captions += [taken_away(self.shard.captions[row], self.rng) for row in rows]

    def add_inverted(self, degraded: int, clear: int) -> None:
        """Adds degraded pictures and clear photos, whose noise the network has to find."""
        begin = self.count
        self.add_degraded(degraded)
        self.add_clear_captions(clear)
        self.inverted = slice(begin, self.count)

    def add_degraded(self, count: int) -> None:
        """Adds degraded pictures under their captions, with closed-form noise and density."""
        rows = self._rows(count)
        latents = self._latents(self.shard.degraded, rows)
        self.density = self.shard.density[torch.from_numpy(rows)].float()
        self.degraded = slice(self.count, self.count + count)
        self.targets.append(latents)
        self.noises.append(self.noise_of(latents))
        self.captions += [(self.shard.captions[row], False) for row in rows]

    def add_clear_captions(self, count: int) -> None:
        """Adds clear photos under captions of clear photos, with their closed-form noise."""
        latents = self._latents(self.shard.clear, self._rows(count))
        self.targets.append(latents)
        self.noises.append(self.noise_of(latents))
        self.captions += [(clear_caption(self.rng), False) for _ in range(count)]

    def add_alone(self, count: int, generator: torch.Generator) -> None:
        """Adds pictures of every kind with independent normal noise."""
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
            self.degraded,
            self.density,
            timesteps.clone(),
        )


def taken_away(caption: Caption, rng: np.random.Generator) -> tuple[Caption, bool]:
    """The word swapped for null text (three times in four), or left out of the caption."""
    if rng.random() < 0.75:
        return caption, True
    assert caption.word is not None
    return Caption(without_word(caption.text, caption.word)), False


def normal_like(latents: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise in the shape of latents, on the generator's device."""
    return torch.randn(latents.shape, generator=generator, device=generator.device)


def draw_sampler_timesteps(count: int, train_timesteps: int, generator: torch.Generator) -> Tensor:
    """Timesteps (count,), distributed as the steps of the noisy-end spacing are."""
    u = torch.rand(count, generator=generator, device=generator.device)
    return ((1.0 - (1.0 - u) ** 1.7) * train_timesteps).long().clamp(max=train_timesteps - 1)


def draw_seen_timesteps(timesteps: Tensor, generator: torch.Generator) -> Tensor:
    """Timesteps (B,) of the latents that an inversion step to ``timesteps`` evaluates.

    An inversion step is implicit, and its iterations begin at the latents of the step before, so
    the network must know latents of an earlier timestep as well. Half of the examples keep their
    own timestep; the others get an earlier one, at most a quarter of the steps before it.
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
    """Timesteps (count,) of the first denoising step: mostly the sampler's own, some near it."""
    device = generator.device
    around = torch.randint(930, 1000, (count,), generator=generator, device=device)
    chance = torch.rand(count, generator=generator, device=device)
    return torch.where(chance < 0.7, 990, around)
