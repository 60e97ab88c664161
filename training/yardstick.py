"""The yardstick: a plain regressor from hazy cells to clear ones, for comparison.

It learns from the same pool as the bundled model and is about as large, but it has neither noise
nor captions, and sees only haze. Its scores show what the data and the features allow; it is not
shipped.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel
from torch import Tensor

from dehaze.models.codec import CellsCodec
from training.captions import HAZE_WORDS
from training.data import CELL_SIZE
from training.networks import bfloat16_where_fast, latents_of
from training.pool import PoolReader
from training.train import TrainingSettings, clip_gradients

logger = logging.getLogger(__name__)

YARDSTICK = TrainingSettings(steps=4000, decay=0.5)


def build_regressor() -> Any:
    """A U-Net as wide as the model's, with attention at the lower two levels."""
    return UNet2DModel(
        sample_size=16,
        in_channels=36,
        out_channels=36,
        block_out_channels=(48, 96, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=32,
        norm_num_groups=16,
    )


class Yardstick:
    """The regressor with its optimiser, moving average and checkpoint.

    Args:
        folder: where its checkpoint lies.
    """

    def __init__(self, folder: Path, settings: TrainingSettings = YARDSTICK) -> None:
        self.folder, self.settings = folder, settings
        torch.manual_seed(settings.seed)
        self.codec = CellsCodec(cell_size=CELL_SIZE)
        self.vae = self.codec  # ``latents_of`` reads it.
        self.network = build_regressor()
        parameters = list(self.network.parameters())
        self.optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=0.01)
        self.average = EMAModel(parameters, decay=settings.ema_decay)
        self.step = 0
        self.seconds = 0.0
        checkpoint = folder / "checkpoint.pt"
        if checkpoint.is_file():
            state = torch.load(checkpoint, weights_only=True)
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average.load_state_dict(state["average"])
            self.step, self.seconds = int(state["step"]), float(state["seconds"])

    def estimate(self, latents: Tensor) -> Tensor:
        """The clear latents (B, 36, h, w) of hazy ones."""
        zero = torch.zeros(len(latents), dtype=torch.int64)
        with bfloat16_where_fast("cpu"):
            return latents + self.network(latents, zero).sample.float()

    def use_average(self) -> None:
        """Replaces the weights by their moving average, to be measured."""
        self.average.copy_to(self.network.parameters())

    def train(self, reader: PoolReader) -> None:
        """Trains for the settings' steps or minutes, from the last checkpoint."""
        settings = self.settings
        self.folder.mkdir(parents=True, exist_ok=True)
        started, losses = time.perf_counter() - self.seconds, []
        while settings.share_done(self.step, self.seconds) < 1.0:
            rng = np.random.default_rng((settings.seed, self.step))
            hazy, clear = self._draw(reader, rng)
            for group in self.optimizer.param_groups:
                group["lr"] = settings.learning_rate_at(self.step, self.seconds)
            loss = (self.estimate(hazy) - clear).square().mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            clip_gradients(self.network.parameters())
            self.optimizer.step()
            self.average.step(self.network.parameters())
            self.step += 1
            self.seconds = time.perf_counter() - started
            ended = settings.share_done(self.step, self.seconds) >= 1.0
            losses.append(float(loss.detach()))
            if ended or self.step % 50 == 0:
                row = {
                    "step": self.step,
                    "clear_db": float(10.0 * np.log10(16.0 / np.mean(losses[-50:]))),
                    "seconds": round(self.seconds, 1),
                }
                with (self.folder / "log.jsonl").open("a") as log:
                    log.write(json.dumps(row) + "\n")
                logger.info("step %(step)d clear %(clear_db).2f dB", row)
            if ended or self.step % settings.checkpoint_every == 0:
                self._save()

    def _draw(self, reader: PoolReader, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        shard = reader.draw(rng)
        hazes = [k for k, caption in enumerate(shard.captions) if caption.word in HAZE_WORDS]
        rows = torch.from_numpy(np.sort(rng.choice(hazes, self.settings.batch_size)))
        return latents_of(self, shard.degraded[rows]), latents_of(self, shard.clear[rows])

    def _save(self) -> None:
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        partial = self.folder / "checkpoint.part"
        torch.save(state, partial)
        partial.replace(self.folder / "checkpoint.pt")
