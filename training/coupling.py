"""Second stage: ties the noise of a hazy rendering to the clear photo that it was rendered over.

Trained on each kind of picture by itself, a diffusion model couples the two by accident: the noise
that a hazy photo is inverted to becomes some clear photo of about the same rank among the clear
ones, and a densely hazy region becomes a dull clear one. Here the model of the first stage inverts
renderings, and training goes on with what it found: one noise z, the rendering I under its caption,
the clear photo J under the same caption with the word swapped for null text,

    z_t = sqrt(a_t) x + s_t z,   x = I or J.

Either picture still is what its caption says; the paths straighten and lead from I through z to J.
z is less than normal noise, since inversion finds too little of it in fine detail: a part of each
batch keeps the model at home in noise drawn at random.

Source: Liu, Gong and Liu, "Flow Straight and Fast", arXiv 2209.03003, section 2 (reflow); here the
pairs of two captions share their noise.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dehaze.inversion import DDIMTable, InversionSettings, invert
from dehaze.prompts import without_word
from training.captions import Caption
from training.data import Array, Example, Pair, draw_example, draw_pair, draw_working_size
from training.networks import Networks
from training.train import (
    Batch,
    BatchSource,
    TrainingSettings,
    embed_captions,
    latent_shape,
    latents_of,
)

logger = logging.getLogger(__name__)

# Of the inversion that finds each rendering's noise: nearly the one that the pipeline makes.
INVERSION_STEPS = 6
INVERSION_ITERATIONS = 3
CHUNK_PAIRS = 256

COUPLED = TrainingSettings(
    steps=1800, learning_rate=5e-4, warmup=50, decay=0.6, ema_decay=0.995, checkpoint_every=100
)


@dataclass(frozen=True)
class Chunk:
    """Pairs of one working size with their noise.

    Attributes:
        degraded: float16 (n, h, w, 3) in [0, 1], what the captions say.
        clear: float16 (n, h, w, 3) in [0, 1], the photos behind them.
        noise: float16 (n, C, h', w'), z of each pair, at the codec's size.
        captions: of ``degraded``.
    """

    degraded: NDArray[np.float16]
    clear: NDArray[np.float16]
    noise: NDArray[np.float16]
    captions: list[Caption]

    def save(self, path: Path) -> None:
        """Writes the chunk, whole or not at all."""
        captions = json.dumps([asdict(caption) for caption in self.captions])
        partial = path.with_suffix(".part")
        with partial.open("wb") as stream:
            np.savez(
                stream,
                degraded=self.degraded,
                clear=self.clear,
                noise=self.noise,
                captions=np.array(captions),
            )
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Chunk:
        with np.load(path) as stored:
            captions = [Caption(**fields) for fields in json.loads(str(stored["captions"]))]
            return cls(stored["degraded"], stored["clear"], stored["noise"], captions)


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
def invert_pairs(networks: Networks, pairs: list[Pair]) -> Tensor:
    """The noise (B, C, h, w) that each degraded picture is inverted to under its caption."""
    pictures = [Example(pair.degraded, pair.caption, swapped=False) for pair in pairs]
    clean = latents_of(networks, [example.picture for example in pictures])
    table = DDIMTable.from_scheduler(networks.scheduler, INVERSION_STEPS, "noisy-end")
    with torch.autocast(networks.unet.device.type, dtype=torch.bfloat16):
        network = _CaptionedNetwork(networks.unet, table, embed_captions(networks, pictures))
        settings = InversionSettings(
            steps=INVERSION_STEPS, tolerance=1e-3, max_iterations=INVERSION_ITERATIONS
        ).changed(solver="anderson")
        last = invert(network, clean, settings).latents
    # z_N = sqrt(a_N) x + s_N z, solved for z.
    alpha = table.alphas[-1]
    return (last - alpha**0.5 * clean) / (1.0 - alpha) ** 0.5


def write_chunks(
    networks: Networks, photos: list[Array], folder: Path, count: int, seed: int = 0
) -> None:
    """Writes the chunks, of ``count``, that the folder lacks; each depends on the seed alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / f"{number:04d}.npz"
        if path.exists():
            continue
        rng = np.random.default_rng((seed, number))
        size = draw_working_size(rng)
        pairs = [draw_pair(photos, size, rng) for _ in range(CHUNK_PAIRS)]
        noise = torch.cat(
            [invert_pairs(networks, pairs[at : at + 64]) for at in range(0, len(pairs), 64)]
        )
        Chunk(
            np.stack([pair.degraded for pair in pairs]).astype(np.float16),
            np.stack([pair.clear for pair in pairs]).astype(np.float16),
            noise.cpu().numpy().astype(np.float16),
            [pair.caption for pair in pairs],
        ).save(path)
        logger.info("chunk %d of %d", number + 1, count)


def load_chunks(folder: Path) -> list[Chunk]:
    """All chunks of a folder, in the order of their numbers."""
    return [Chunk.load(path) for path in sorted(folder.glob("*.npz"))]


def draw_sampler_timesteps(count: int, train_timesteps: int, generator: torch.Generator) -> Tensor:
    """Timesteps (count,) as densely as the noisy-end spacing places its steps."""
    u = torch.rand(count, generator=generator)
    return ((1.0 - (1.0 - u) ** 1.7) * train_timesteps).long().clamp(max=train_timesteps - 1)


def coupled_batches(chunks: list[Chunk], photos: list[Array], networks: Networks) -> BatchSource:
    """The second stage's batches: four fifths are of pairs that share their noise.

    Of 64 examples 36 are the clear photos of pairs, the harder part to learn, and 16 what they were
    degraded to. A clear photo stands under its pair's caption with the word swapped for null text,
    one time in four under the caption without the word: the pipeline's two readings. The last 12
    are of the first stage's kind, with noise of their own.
    """

    def draw(count: int, rng: np.random.Generator, generator: torch.Generator) -> Batch:
        chunk = chunks[int(rng.integers(len(chunks)))]
        drawn = rng.integers(len(chunk.captions), size=count * 9 // 16)
        examples: list[Example] = []
        noise: list[Tensor] = []
        for position, index in enumerate(drawn):
            caption = chunk.captions[index]
            swapped = bool(rng.random() < 0.75)
            target = caption if swapped else without_its_word(caption)
            pair = [Example(chunk.clear[index].astype(np.float32), target, swapped)]
            if position < count // 4:
                pair.append(Example(chunk.degraded[index].astype(np.float32), caption, False))
            examples += pair
            noise += [torch.from_numpy(chunk.noise[index].astype(np.float32))] * len(pair)
        size = chunk.clear.shape[1:3]
        alone = count - len(examples)
        examples += [draw_example(photos, size, rng) for _ in range(alone)]
        shape = latent_shape(networks, alone, size)
        own = torch.randn(shape, generator=generator)
        return Batch(
            examples,
            torch.cat([torch.stack(noise), own]),
            draw_sampler_timesteps(count, 1000, generator),
        )

    return draw


def without_its_word(caption: Caption) -> Caption:
    """The caption without the word it names."""
    assert caption.word is not None
    return Caption(without_word(caption.text, caption.word))
