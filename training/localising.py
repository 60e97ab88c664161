"""Third stage: the haze word's attention learns where the haze is.

The first two stages do not train the haze attention map, whose values hardly follow the density.
This stage trains the cross-attention of the map's block; all other weights are frozen. The loss has
two terms: the second stage's, so that the pictures stay as they are, and the correlation of the
word's attention with the rendered density 1 - t. The pair gives t: all nine numbers of a cell obey
I = J t + A (1 - t), so t is the slope of I over J.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn import functional

from dehaze.inversion import DDIMTable
from dehaze.prompts import tokenize, word_span
from training.batches import Batch
from training.captions import Caption
from training.coupling import Chunk, make_chunk, map_attention
from training.export import INVERSION
from training.networks import Networks
from training.pool import PoolReader
from training.train import Run, TrainingSettings, clip_gradients, losses_of

logger = logging.getLogger(__name__)

LOCALISING = TrainingSettings(
    steps=300, batch_size=32, learning_rate=2e-3, warmup=20, decay=0.9, ema_decay=0.98
)
# Weight of 1 - r in the loss, with r the correlation of attention and density.
CORRELATION_WEIGHT = 0.2
# Pairs whose density varies less than this standard deviation have no correlation.
LEAST_VARIATION = 0.02


def density_of(degraded: Tensor, clear: Tensor, radius: int = 2) -> Tensor:
    """Density 1 - t of the window around each position, from the latents of a pair.

    Args:
        degraded: latents of I, (B, C, h, w); C holds all numbers of a position's four cells.
        clear: of J, likewise.
        radius: half-width of the window, in positions; t is constant in it.

    Returns:
        float32 (B, h, w) in [0, 1]: 1 minus the least-squares slope of I over J, with an offset for
        each colour channel.
    """
    batch, _, height, width = clear.shape
    size = 2 * radius + 1
    # Each of four cells has nine numbers, in which colour varies fastest.
    first, second = (x.reshape(batch, 3, 3, -1, height, width) for x in (degraded, clear))

    def mean(values: Tensor) -> Tensor:
        pooled = functional.avg_pool2d(
            values.mean((1, 3)), size, 1, radius, count_include_pad=False
        )
        return pooled[:, None, :, None]

    own = second - mean(second)
    covariance = mean((first - mean(first)) * own).sum((1, 2, 3))
    variance = mean(own * own).sum((1, 2, 3))
    return 1.0 - ((covariance + 1e-2) / (variance + 1e-2)).clamp(0.0, 1.0)


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's correlation (B,) of two maps (B, h, w)."""
    first, second = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (first, second))
    product = (first * second).sum(1)
    return product / (first.square().sum(1) * second.square().sum(1) + 1e-12).sqrt()


class RecordingProcessor:
    """Plain cross-attention that keeps its probabilities, (B, heads, positions, tokens)."""

    probabilities: Tensor

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        batch = len(hidden_states)
        query, key, value = (
            attn.head_to_batch_dim(project(states))
            for project, states in (
                (attn.to_q, hidden_states),
                (attn.to_k, encoder_hidden_states),
                (attn.to_v, encoder_hidden_states),
            )
        )
        scores = attn.get_attention_scores(query, key, attention_mask)
        self.probabilities = scores.reshape(batch, -1, *scores.shape[1:]).float()
        mixed = attn.batch_to_head_dim(torch.bmm(scores, value))
        return torch.as_tensor(attn.to_out[1](attn.to_out[0](mixed)))


@dataclass
class Localising:
    """The weights that the third stage trains, and the loss of a step.

    Attributes:
        run: the training run, with its networks.
        processor: records the attention of the map's block.
        parameters: those trained: of the block's cross-attention and of the norm before it.
    """

    run: Run
    processor: RecordingProcessor
    parameters: list[Any]

    @classmethod
    def of(cls, run: Run) -> Localising:
        """Freezes all weights but those of the block's cross-attention and its norm."""
        for parameter in run.parameters:
            parameter.requires_grad_(False)
        attention, norm = map_attention(run.networks)
        parameters = [*attention.parameters(), *norm.parameters()]
        for parameter in parameters:
            parameter.requires_grad_(True)
        processor = RecordingProcessor()
        attention.set_processor(processor)
        return cls(run, processor, parameters)

    def loss(
        self, chunk: Chunk, count: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, its mean squared error, and its mean correlation.

        Half of the ``count`` examples are degraded pictures under their captions, at the
        inversion's timesteps. The other half are their clear photos, at the first denoising step.
        """
        networks = self.run.networks
        half = count // 2
        rows = rng.integers(len(chunk.captions), size=half)
        steps = torch.from_numpy(rng.choice(inversion_timesteps(networks), size=half))
        timesteps = torch.cat([steps, torch.full((half,), 990)])
        captions = [(chunk.captions[row], False) for row in rows]
        batch = Batch(
            torch.cat([chunk.degraded[rows], chunk.clear[rows]]),
            torch.cat([chunk.noise[rows], chunk.noise[rows]]),
            timesteps,
            captions + [chunk.targets[row] for row in rows],
            0,
            slice(0, 0),
            timesteps,
        )
        error = losses_of(networks, batch).mean()
        density = density_of(chunk.degraded[rows], chunk.clear[rows]).to(networks.unet.device)
        attention = word_attention(
            networks, self.processor.probabilities[:half], [c for c, _ in captions], density.shape
        )
        ranked = density.flatten(1).std(1) > LEAST_VARIATION
        agreement = correlation(attention, density)[ranked]
        found = agreement.mean() if len(agreement) else torch.ones(())
        return error + CORRELATION_WEIGHT * (1.0 - found), error.detach(), found.detach()


def inversion_timesteps(networks: Networks) -> list[int]:
    """The timesteps at which an inversion's attention is recorded."""
    table = DDIMTable.from_scheduler(networks.scheduler, INVERSION.steps, INVERSION.spacing)
    return [int(table.timestep(i)) for i in range(1, INVERSION.steps + 1)]


def word_attention(
    networks: Networks, probabilities: Tensor, captions: list[Caption], shape: torch.Size
) -> Tensor:
    """The word's attention (B, h, w): the mean over heads and over the word's tokens."""
    maps = []
    for each, caption in zip(probabilities, captions, strict=True):
        assert caption.word is not None
        span = word_span(tokenize(networks.tokenizer, caption.text), caption.word)
        maps.append(each[..., list(span)].mean((0, 2)))
    return torch.stack(maps).reshape(shape)


def localise(
    run: Run, reader: PoolReader, settings: TrainingSettings, renew_every: int = 8
) -> None:
    """Trains the block's cross-attention, then replaces the weights by their running average."""
    stage = Localising.of(run)
    optimizer = torch.optim.AdamW(stage.parameters, betas=(0.9, 0.99), weight_decay=0.0)
    averages = [parameter.detach().clone() for parameter in stage.parameters]
    chunks: list[Chunk] = []
    report: list[tuple[float, float]] = []
    for step in range(settings.steps):
        rng = np.random.default_rng((settings.seed, step))
        if step % renew_every == 0 or not chunks:
            chunks = [*chunks[-15:], make_chunk(run, reader, rng)]
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate_at(step)
        chunk = chunks[int(rng.integers(len(chunks)))]
        loss, error, found = stage.loss(chunk, settings.batch_size, rng)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip_gradients(stage.parameters)
        optimizer.step()
        for average, parameter in zip(averages, stage.parameters, strict=True):
            average.lerp_(parameter.detach(), 1.0 - settings.ema_decay)
        report.append((float(error), float(found)))
        if (step + 1) % 50 == 0:
            mean, agreed = np.mean(report[-50:], axis=0)
            logger.info("step %d loss %.4f correlation %.3f", step + 1, mean, agreed)
    with torch.no_grad():
        for average, parameter in zip(averages, stage.parameters, strict=True):
            parameter.copy_(average)
    run.average = EMAModel(run.parameters)
