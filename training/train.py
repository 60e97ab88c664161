"""Trains the bundled model, from nothing or from its last checkpoint."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from diffusers.training_utils import EMAModel
from numpy.typing import NDArray
from torch import Tensor

from dehaze.prompts import swap_for_null_text, tokenize, without_word, word_span
from training.captions import Caption, clear_caption, vocabulary
from training.networks import Networks, build_networks, build_tokenizer
from training.noise import GaussianNoise
from training.pool import Shard, shard_paths

Array = NDArray[Any]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSettings:
    """The settings of a training run.

    Attributes:
        steps: optimisation steps in all.
        batch_size: examples a step.
        learning_rate: AdamW's, after the warm-up and before the decay.
        warmup: steps of linear warm-up.
        decay: share of the steps, at the end, over which the learning rate falls to zero.
        ema_decay: of the exponential moving average that is exported.
        checkpoint_every: steps between checkpoints.
        seed: of the weights and of every example.
    """

    steps: int = 3000
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup: int = 150
    decay: float = 0.0
    ema_decay: float = 0.998
    checkpoint_every: int = 250
    seed: int = 0

    def learning_rate_at(self, step: int) -> float:
        """Warm-up, plateau, cosine decay."""
        start = self.steps * (1.0 - self.decay)
        rise = min(1.0, (step + 1) / self.warmup)
        fall = max(0.0, (step - start) / max(1.0, self.steps - start))
        return self.learning_rate * rise * 0.5 * (1.0 + math.cos(math.pi * min(1.0, fall)))


class HasCodec(Protocol):
    """Whatever has a codec of cells."""

    vae: Any


def embed_captions(networks: Networks, captions: list[tuple[Caption, bool]]) -> Tensor:
    """Text embeddings (B, L, D), the haze word's rows swapped for null text where asked for."""
    texts = list(dict.fromkeys([*(caption.text for caption, _ in captions), ""]))
    prompts = {text: tokenize(networks.tokenizer, text) for text in texts}
    ids = torch.stack([prompt.ids for prompt in prompts.values()])
    rows = networks.text_encoder(ids.to(networks.text_encoder.device)).last_hidden_state
    embedded = dict(zip(texts, rows, strict=True))
    embeddings = []
    for caption, swapped in captions:
        embedding = embedded[caption.text]
        if swapped and caption.word is not None:
            span = word_span(prompts[caption.text], caption.word)
            embedding = swap_for_null_text(embedding, embedded[""], span)
        embeddings.append(embedding)
    return torch.stack(embeddings)


def latents_of(networks: HasCodec, cells: Array) -> Tensor:
    """z_0, float32 (B, C, h', w'), of cells (B, h, w, 9) in [0, 1]."""
    images = torch.from_numpy(cells.astype(np.float32)).permute(0, 3, 1, 2)
    latents = networks.vae.unshuffle(images * 2.0 - 1.0)
    return torch.as_tensor(latents * networks.vae.config.scaling_factor)


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


class PoolReader:
    """Draws from the shards of a pool, which may be renewed meanwhile."""

    def __init__(self, pool: Path) -> None:
        self.pool = pool
        self._shards: dict[str, Shard] = {}

    def draw_of(self, rng: np.random.Generator, latents: tuple[int, ...]) -> Shard:
        """One of the shards whose latents have this height and width."""
        while True:
            shard = self.draw(rng)
            height, width = shard.clear.shape[1:3]
            if height * latents[-1] == width * latents[-2]:
                return shard

    def draw(self, rng: np.random.Generator) -> Shard:
        """One of the shards.

        Raises:
            FileNotFoundError: the pool is empty.
        """
        paths = shard_paths(self.pool)
        if not paths:
            raise FileNotFoundError(f"{self.pool} holds no shards: run `python -m training render`")
        path = paths[int(rng.integers(len(paths)))]
        if path.name not in self._shards:
            present = {each.name for each in paths}
            self._shards = {name: s for name, s in self._shards.items() if name in present}
            self._shards[path.name] = Shard.load(path)
        return self._shards[path.name]


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

    def _latents(self, cells: NDArray[np.float16], rows: NDArray[np.int64]) -> Tensor:
        # One more than is asked for: torch unshuffles no pictures at all to another shape.
        padded = np.append(rows, 0)
        return latents_of(self.networks, cells[padded])[: len(rows)]

    def _rows(self, count: int) -> NDArray[np.int64]:
        return np.sort(self.rng.integers(len(self.shard.captions), size=count))

    def add_clear(self, count: int, generator: torch.Generator) -> None:
        """Clear photos with the noise of what they were degraded to, the word taken away.

        The noise is that of a slightly different picture, as an inversion finds it.
        """
        rows = self._rows(count)
        degraded = self._latents(self.shard.degraded, rows)
        degraded += INVERSION_ERROR * torch.randn(degraded.shape, generator=generator)
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
        self.noises.append(torch.randn(latents.shape, generator=generator))

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


def draw_sampler_timesteps(count: int, train_timesteps: int, generator: torch.Generator) -> Tensor:
    """Timesteps (count,) as densely as the noisy-end spacing places its steps."""
    u = torch.rand(count, generator=generator)
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
    back = torch.rand(timesteps.shape, generator=generator)
    back = back * (torch.rand(timesteps.shape, generator=generator) < 0.5)
    return (timesteps - back * (timesteps - earliest)).round().long().clamp(min=0)


def draw_top_timesteps(count: int, generator: torch.Generator) -> Tensor:
    """Timesteps (count,) of the way back's first step, mostly the sampler's, some near it."""
    around = torch.randint(930, 1000, (count,), generator=generator)
    return torch.where(torch.rand(count, generator=generator) < 0.7, 990, around)


def losses_of(
    networks: Networks, batch: Batch, unwhitened: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Squared error (B,) of the predicted velocity.

    Whitening gives errors in all directions the same weight, but the directions in which photos
    differ most matter most for the picture. So where a picture's noise is to be found, errors of
    the noise count in units of the latents, with the weight a_t: the velocity is the noise at a_t =
    1 and the picture at a_t = 0.

    The velocity is v = sqrt(a) eps - s z_0.

    Source: Salimans and Ho, "Progressive Distillation", arXiv 2202.00512, appendix D.
    """
    device = networks.unet.device
    target, noise, timesteps, seen = (
        tensor.to(device) for tensor in (batch.target, batch.noise, batch.timesteps, batch.seen)
    )
    alphas = networks.scheduler.alphas_cumprod.to(device)[:, None, None, None]
    alpha, present = alphas[timesteps], alphas[seen]
    root, sigma = alpha.sqrt(), (1.0 - alpha).sqrt()
    noisy = present.sqrt() * target + (1.0 - present).sqrt() * noise
    velocity = root * noise - sigma * target
    with torch.autocast(device.type, dtype=torch.bfloat16):
        context = embed_captions(networks, batch.captions)
        predicted = networks.unet(noisy, timesteps, context).sample
    errors = predicted.float() - velocity
    losses = errors.square().mean((1, 2, 3))
    if unwhitened is not None:
        share = alpha[batch.inverted].flatten()
        known = unwhitened(errors[batch.inverted]).square().mean((1, 2, 3))
        losses = losses.clone()
        losses[batch.inverted] = share * known + (1.0 - share) * losses[batch.inverted]
    return losses


class Run:
    """A training run in a folder: its networks, its optimiser, its step.

    Args:
        networks: where training starts; new ones when None.
    """

    def __init__(
        self,
        folder: Path,
        settings: TrainingSettings,
        device: str,
        networks: Networks | None = None,
    ) -> None:
        self.folder, self.settings = folder, settings
        torch.manual_seed(settings.seed)
        if networks is None:
            tokenizer = build_tokenizer(vocabulary(), folder / "tokenizer_source")
            networks = build_networks(tokenizer)
        self.networks = networks
        self.networks.unet.to(device)
        self.networks.text_encoder.to(device)
        if device == "cpu":
            # There the backward pass of fused attention is slower than that of the plain products.
            self.networks.unet.set_attn_processor(AttnProcessor())
        self.parameters = [
            *self.networks.unet.parameters(),
            *self.networks.text_encoder.parameters(),
        ]
        self.optimizer = torch.optim.AdamW(self.parameters, betas=(0.9, 0.99), weight_decay=0.01)
        self.average = EMAModel(self.parameters, decay=settings.ema_decay)
        self.step = 0
        self.seconds = 0.0

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def resume(self) -> None:
        """Continues from the last checkpoint, if there is one."""
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, weights_only=True)
        self.networks.unet.load_state_dict(state["unet"])
        self.networks.text_encoder.load_state_dict(state["text_encoder"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        logger.info("resumed at step %d", self.step)

    def save(self) -> None:
        """Writes the checkpoint, whole or not at all."""
        state = {
            "unet": self.networks.unet.state_dict(),
            "text_encoder": self.networks.text_encoder.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        partial = self.checkpoint.with_suffix(".part")
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    def use_average(self) -> Networks:
        """Replaces the weights by their moving average, for export."""
        self.average.copy_to(self.parameters)
        return self.networks

    def train(
        self, source: BatchSource, unwhitened: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        """Trains up to the settings' number of steps; safe to stop at any moment.

        Args:
            source: of the batches.
            unwhitened: as for ``losses_of``.
        """
        settings = self.settings
        log = (self.folder / "log.jsonl").open("a")
        losses: list[tuple[float, float]] = []
        started = time.perf_counter() - self.seconds
        while self.step < settings.steps:
            # Each step has a generator of its own, so that a resumed run sees the same examples.
            rng = np.random.default_rng((settings.seed, self.step))
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            batch = source(settings.batch_size, rng, generator)
            for group in self.optimizer.param_groups:
                group["lr"] = settings.learning_rate_at(self.step)
            errors = losses_of(self.networks, batch, unwhitened)
            loss = errors.mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.average.step(self.parameters)
            self.step += 1
            losses.append((float(loss.detach()), float(errors[: batch.clear].detach().mean())))
            if self.step % 50 == 0:
                self.seconds = time.perf_counter() - started
                mean, clear = np.mean(losses[-50:], axis=0)
                # Latents are 4 p - 2 of values p in [0, 1].
                row = {
                    "step": self.step,
                    "loss": float(mean),
                    "clear_db": float(10.0 * np.log10(16.0 / clear)),
                    "seconds": round(self.seconds, 1),
                }
                log.write(json.dumps(row) + "\n")
                log.flush()
                logger.info(
                    "step %(step)d loss %(loss).4f clear %(clear_db).2f dB after %(seconds).0f s",
                    row,
                )
            if self.step % settings.checkpoint_every == 0 or self.step == settings.steps:
                self.save()
        log.close()
