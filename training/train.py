"""Trains the bundled model, from nothing or from its last checkpoint."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from diffusers.training_utils import EMAModel
from torch import Tensor

from training.batches import Batch, BatchSource
from training.captions import vocabulary
from training.networks import (
    Networks,
    bfloat16_where_fast,
    build_networks,
    build_tokenizer,
    embed_captions,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSettings:
    """The settings of a training stage.

    Attributes:
        steps: optimisation steps in all, where ``minutes`` is None.
        minutes: length of the training by the clock, or None.
        batch_size: examples a step.
        learning_rate: AdamW's, between warm-up and decay.
        warmup: steps of linear warm-up.
        decay: share of the training, at its end, over which the learning rate falls to zero.
        ema_decay: decay of the weights' exponential moving average, which is exported.
        checkpoint_every: steps between checkpoints.
        seed: of the initial weights and of every example.
    """

    steps: int = 3000
    minutes: float | None = None
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup: int = 150
    decay: float = 0.0
    ema_decay: float = 0.998
    checkpoint_every: int = 250
    seed: int = 0

    def share_done(self, step: int, seconds: float) -> float:
        """The share of the training that is done before a step; 1 or more at the end.

        Args:
            step: from 0.
            seconds: of training so far.
        """
        return step / self.steps if self.minutes is None else seconds / (60.0 * self.minutes)

    def learning_rate_at(self, step: int, seconds: float) -> float:
        """The learning rate of a step: linear warm-up, plateau, cosine decay.

        Arguments as ``share_done``.
        """
        rise = min(1.0, (step + 1) / self.warmup)
        falling = self.share_done(step, seconds) - (1.0 - self.decay)
        fall = min(1.0, max(0.0, falling) / self.decay) if self.decay > 0.0 else 0.0
        return self.learning_rate * rise * 0.5 * (1.0 + math.cos(math.pi * fall))


# An example at this timestep or later belongs to the first denoising step.
FIRST_DENOISING = 930
# e in log(1 + m / e): a squared error in latent units. Smaller errors hardly count: the picture has
# 34 dB or more.
NEARLY_NONE = 0.006
# Squared error m, in latent units, at which the logarithm has a gradient of 1.
USUAL_ERROR = 0.2


def logarithmic(errors: Tensor) -> Tensor:
    """(m0 + e) log(1 + m / e) of squared errors m (B,): the loss whose mean follows the mean PSNR.

    With the squared error itself, a model that cannot tell whether a photo has haze removes half of
    it. m0 is ``USUAL_ERROR`` and e is ``NEARLY_NONE``.
    """
    return (USUAL_ERROR + NEARLY_NONE) * torch.log1p(errors / NEARLY_NONE)


def squared(loss: float) -> float:
    """The squared error of a logarithmic loss: the inverse of ``logarithmic``."""
    return NEARLY_NONE * math.expm1(loss / (USUAL_ERROR + NEARLY_NONE))


def clip_gradients(parameters: Iterable[Tensor]) -> None:
    """Scales gradients down to a norm of 1 where it is larger.

    Raises:
        FloatingPointError: the norm is not finite, so that a step would spoil the weights.
    """
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, 1.0))
    if not math.isfinite(norm):
        raise FloatingPointError(
            f"the norm of the gradients is {norm}, which would spoil the weights: try a smaller "
            "learning rate; a run with checkpoints continues from the last one"
        )


def losses_of(
    networks: Networks, batch: Batch, unwhitened: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Losses (B,): the squared errors of the predicted velocity, or the logarithm of them.

    The logarithm is taken where an example is one of the first denoising step, the only one that
    ``denoising_steps`` leaves.

    Whitening gives errors in all directions the same weight, but the directions in which photos
    differ most matter most for the picture. So for inverted examples, errors of the noise are
    brought to latent units, with the weight a_t: the velocity is the noise at a_t = 1 and the
    picture at a_t = 0.

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
    with bfloat16_where_fast(device.type):
        context = embed_captions(networks, batch.captions)
        predicted = networks.unet(noisy, timesteps, context).sample
    errors = predicted.float() - velocity
    losses = errors.square().mean((1, 2, 3))
    if unwhitened is not None:
        share = alpha[batch.inverted].flatten()
        known = unwhitened(errors[batch.inverted]).square().mean((1, 2, 3))
        losses = losses.clone()
        losses[batch.inverted] = share * known + (1.0 - share) * losses[batch.inverted]
    at_noise = (seen >= FIRST_DENOISING) & (timesteps == seen)
    at_noise[batch.inverted] = False
    return torch.where(at_noise, logarithmic(losses), losses)


class Run:
    """A training run in a folder: networks, optimiser, moving average, step.

    Args:
        networks: those to start from; new ones when None.
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
        # In TF32 a GPU computes products several times as fast as in float32.
        torch.backends.cuda.matmul.allow_tf32 = True
        self.networks.unet.to(device)
        self.networks.text_encoder.to(device)
        if device == "cpu":
            # There the backward pass of fused attention is slower than that of the plain products.
            self.networks.unet.set_attn_processor(AttnProcessor())
        self.parameters = [
            *self.networks.unet.parameters(),
            *self.networks.text_encoder.parameters(),
        ]
        # A fused step takes a few launches on a GPU, not one for each weight.
        self.optimizer = torch.optim.AdamW(
            self.parameters, betas=(0.9, 0.99), weight_decay=0.01, fused=device.startswith("cuda")
        )
        self.average = EMAModel(self.parameters, decay=settings.ema_decay, foreach=True)
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
        self,
        source: BatchSource,
        unwhitened: Callable[[Tensor], Tensor] | None = None,
        map_loss: Callable[[Batch], Tensor] | None = None,
    ) -> None:
        """Trains for the settings' steps or minutes; may be stopped at any moment and resumed.

        Args:
            source: gives the batch of a step.
            unwhitened: as for ``losses_of``.
            map_loss: from a batch that the network has just seen; added to the mean of the losses.

        Raises:
            FloatingPointError: as for ``clip_gradients``.
        """
        settings = self.settings
        log = (self.folder / "log.jsonl").open("a")
        losses: list[Tensor] = []
        started = time.perf_counter() - self.seconds
        while settings.share_done(self.step, self.seconds) < 1.0:
            # Each step has a generator of its own, so that a resumed run sees the same examples.
            rng = np.random.default_rng((settings.seed, self.step))
            seed = int(rng.integers(2**62))
            generator = torch.Generator(self.networks.unet.device).manual_seed(seed)
            batch = source(settings.batch_size, rng, generator)
            for group in self.optimizer.param_groups:
                group["lr"] = settings.learning_rate_at(self.step, self.seconds)
            errors = losses_of(self.networks, batch, unwhitened)
            loss = errors.mean()
            if map_loss is not None:
                loss = loss + map_loss(batch)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            clip_gradients(self.parameters)
            self.optimizer.step()
            self.average.step(self.parameters)
            self.step += 1
            self.seconds = time.perf_counter() - started
            losses.append(torch.stack([loss, errors[: batch.clear].mean()]).detach())
            if self.step % 50 == 0:
                mean, clear = torch.stack(losses).mean(0).tolist()
                losses.clear()
                # Latents are 4 p - 2, with p in [0, 1], so their range is 4.
                row = {
                    "step": self.step,
                    "loss": mean,
                    "clear_db": 10.0 * math.log10(16.0 / squared(clear)),
                    "seconds": round(self.seconds, 1),
                }
                log.write(json.dumps(row) + "\n")
                log.flush()
                logger.info(
                    "step %(step)d loss %(loss).4f clear %(clear_db).2f dB after %(seconds).0f s",
                    row,
                )
            ended = settings.share_done(self.step, self.seconds) >= 1.0
            if ended or self.step % settings.checkpoint_every == 0:
                self.save()
        log.close()
