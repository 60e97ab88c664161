"""Trains the bundled model, from nothing or from its last checkpoint."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn import functional as F

from dehaze.prompts import swap_for_null_text, tokenize, word_span
from training.captions import vocabulary
from training.data import Array, Example, draw_example, draw_working_size, list_photos, load_photos
from training.networks import Networks, build_networks, build_tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSettings:
    """What a training run is made of.

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

    steps: int = 5000
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup: int = 200
    decay: float = 0.3
    ema_decay: float = 0.998
    checkpoint_every: int = 250
    seed: int = 0

    def learning_rate_at(self, step: int) -> float:
        """Warm-up, plateau, cosine decay."""
        start = self.steps * (1.0 - self.decay)
        rise = min(1.0, (step + 1) / self.warmup)
        fall = max(0.0, (step - start) / max(1.0, self.steps - start))
        return self.learning_rate * rise * 0.5 * (1.0 + math.cos(math.pi * min(1.0, fall)))


def draw_timesteps(count: int, train_timesteps: int, generator: torch.Generator) -> Tensor:
    """Timesteps (count,) drawn towards the noisy end, where the veil is decided.

    The logit of t / T is normal with mean .6 and deviation 1.2.
    """
    logits = 0.6 + 1.2 * torch.randn(count, generator=generator)
    return (torch.sigmoid(logits) * train_timesteps).long().clamp(max=train_timesteps - 1)


def embed_captions(networks: Networks, examples: list[Example]) -> Tensor:
    """Text embeddings (B, L, D), the haze word's rows swapped for null text where asked for."""
    prompts = [tokenize(networks.tokenizer, example.caption.text) for example in examples]
    empty = tokenize(networks.tokenizer, "")
    ids = torch.stack([*(prompt.ids for prompt in prompts), empty.ids])
    rows = networks.text_encoder(ids.to(networks.text_encoder.device)).last_hidden_state
    embeddings = list(rows[:-1])
    for index, (example, prompt) in enumerate(zip(examples, prompts, strict=True)):
        if example.swapped and example.caption.word is not None:
            span = word_span(prompt, example.caption.word)
            embeddings[index] = swap_for_null_text(embeddings[index], rows[-1], span)
    return torch.stack(embeddings)


def latents_of(networks: Networks, pictures: list[Array]) -> Tensor:
    """z_0, float32 (B, C, h', w'), of pictures (h, w, 3) in [0, 1]."""
    images = torch.from_numpy(np.stack(pictures)).to(networks.unet.device).permute(0, 3, 1, 2)
    encoded = networks.vae.encode(images * 2.0 - 1.0).latent_dist.mode()
    return torch.as_tensor(encoded * networks.vae.config.scaling_factor)


@dataclass(frozen=True)
class Batch:
    """What one step learns from.

    Attributes:
        examples: B pictures of one size with their captions.
        noise: (B, C, h, w), standard normal, at the codec's size.
        timesteps: int64 (B,).
    """

    examples: list[Example]
    noise: Tensor
    timesteps: Tensor


BatchSource = Callable[[int, np.random.Generator, torch.Generator], Batch]
"""(number of examples, generators of that step) -> batch; the generators are its only chance."""


def separate_batches(photos: list[Array], networks: Networks) -> BatchSource:
    """The first stage's batches: each picture by itself, with noise of its own."""

    def draw(count: int, rng: np.random.Generator, generator: torch.Generator) -> Batch:
        size = draw_working_size(rng)
        examples = [draw_example(photos, size, rng) for _ in range(count)]
        return Batch(
            examples,
            torch.randn(latent_shape(networks, count, size), generator=generator),
            draw_timesteps(count, 1000, generator),
        )

    return draw


def latent_shape(networks: Networks, count: int, size: tuple[int, int]) -> tuple[int, ...]:
    """Shape of the latents of ``count`` pictures of ``size``."""
    patch = networks.vae.config.patch_size
    return (count, networks.unet.config.in_channels, size[0] // patch, size[1] // patch)


def loss_of(networks: Networks, batch: Batch) -> Tensor:
    """Mean squared error of the predicted velocity v = sqrt(a) eps - sqrt(1 - a) z_0.

    Source: Salimans and Ho, "Progressive Distillation", arXiv 2202.00512, appendix D.
    """
    device = networks.unet.device
    clean = latents_of(networks, [example.picture for example in batch.examples])
    noise, timesteps = batch.noise.to(device), batch.timesteps.to(device)
    noisy = networks.scheduler.add_noise(clean, noise, timesteps)
    velocity = networks.scheduler.get_velocity(clean, noise, timesteps)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        context = embed_captions(networks, batch.examples)
        predicted = networks.unet(noisy, timesteps, context).sample
    return F.mse_loss(predicted.float(), velocity)


class Run:
    """A training run in a folder: its networks, its optimiser, where it stands.

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

    def train(self, source: BatchSource) -> None:
        """Trains up to the settings' number of steps; safe to stop at any moment."""
        settings = self.settings
        log = (self.folder / "log.jsonl").open("a")
        losses: list[float] = []
        started = time.perf_counter() - self.seconds
        while self.step < settings.steps:
            # Each step has a generator of its own, so that a resumed run sees the same examples.
            rng = np.random.default_rng((settings.seed, self.step))
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            batch = source(settings.batch_size, rng, generator)
            for group in self.optimizer.param_groups:
                group["lr"] = settings.learning_rate_at(self.step)
            loss = loss_of(self.networks, batch)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.average.step(self.parameters)
            self.step += 1
            losses.append(float(loss.detach()))
            if self.step % 50 == 0:
                self.seconds = time.perf_counter() - started
                row = {
                    "step": self.step,
                    "loss": float(np.mean(losses[-50:])),
                    "seconds": round(self.seconds, 1),
                }
                log.write(json.dumps(row) + "\n")
                log.flush()
                logger.info("step %(step)d loss %(loss).4f after %(seconds).0f s", row)
            if self.step % settings.checkpoint_every == 0 or self.step == settings.steps:
                self.save()
        log.close()


def load_training_photos(data: Path) -> list[Array]:
    """The training photos at their cached size."""
    return load_photos(list_photos(data))
