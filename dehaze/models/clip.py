"""CLIP as a judge: how well a picture fits a prompt, and how near pictures are to each other."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dehaze.models import ModelError
from dehaze.models.pretrained import kind_of_pretrained, load_pretrained

CLIP = "openai/clip-vit-large-patch14"
"""The hub id of CLIP's ViT-L/14, by which published scores were computed."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clip:
    """CLIP's similarity of a picture and a prompt.

    Attributes:
        model: a CLIPModel.
        processor: its CLIPProcessor.

    Source: CLIPScore, arXiv 2104.08718, which is max(similarity, 0).
    """

    model: Any
    processor: Any

    @torch.no_grad()
    def __call__(self, picture: NDArray[np.uint8], prompt: str) -> float:
        """A hundred times the cosine of the two embeddings, in [-100, 100].

        Args:
            picture: uint8 (H, W, 3) RGB.
            prompt: cut off at CLIP's length, with a warning.

        Raises:
            ModelError: it is not finite.
        """
        length = int(self.model.config.text_config.max_position_embeddings)
        # Not verbose: the tokenizer's own warning names neither CLIP nor the prompt.
        tokens = self.processor.tokenizer(prompt, verbose=False)["input_ids"]
        if len(tokens) > length:
            logger.warning("CLIP reads %d tokens: the end of %r is cut off", length, prompt)
        given = self.processor(
            text=[prompt],
            images=[picture],
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=length,
            input_data_format="channels_last",
        )
        output = self.model(**given.to(self.model.device))
        image, text = (F.normalize(x, dim=-1) for x in (output.image_embeds, output.text_embeds))
        similarity = 100.0 * float((image * text).sum())
        if not math.isfinite(similarity):
            raise ModelError(
                "CLIP's similarity is not finite: its weights are damaged, get them again"
            )
        return similarity

    @property
    def image_encoder(self) -> ClipImageEncoder:
        """Its image encoder, which has a gradient."""
        seen = self.processor.image_processor
        return ClipImageEncoder(
            self.model.vision_model,
            self.model.visual_projection,
            int(self.model.config.vision_config.image_size),
            tuple(seen.image_mean),
            tuple(seen.image_std),
        )


@dataclass(frozen=True)
class ClipImageEncoder:
    """Pictures to CLIP's space, as a function that has a gradient.

    Attributes:
        vision: CLIP's image encoder.
        projection: maps its output to the embedding.
        side: side of the squares that the encoder reads, in pixels.
        mean, deviation: by which each channel is normalised.
    """

    vision: Any
    projection: Any
    side: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __call__(self, pictures: Tensor) -> Tensor:
        """The embeddings of pictures, not normalised.

        Args:
            pictures: (B, 3, H, W), RGB in [0, 1].

        Returns:
            (B, D), float32, on the encoder's device.
        """
        seen = self.pixels(pictures.to(self.projection.weight))
        embeddings: Tensor = self.projection(self.vision(pixel_values=seen).pooler_output)
        return embeddings

    def pixels(self, pictures: Tensor) -> Tensor:
        """What the encoder reads of pictures: the middle square, (B, 3, side, side).

        As CLIP's own processor does it: the short side is resized to ``side`` (bicubic).
        """
        scale = self.side / min(pictures.shape[-2:])
        size = [max(self.side, int(length * scale)) for length in pictures.shape[-2:]]
        small = F.interpolate(
            pictures, size, mode="bicubic", antialias=True, align_corners=False
        ).clamp(0.0, 1.0)
        top, left = ((length - self.side) // 2 for length in size)
        square = small[..., top : top + self.side, left : left + self.side]
        mean, deviation = (
            torch.tensor(values).to(square)[:, None, None] for values in (self.mean, self.deviation)
        )
        return (square - mean) / deviation


def load_clip(name: str = CLIP, device: torch.device | str = "cpu") -> Clip:
    """CLIP from a folder, or from the hub's cache on this machine: nothing is downloaded.

    Args:
        name: the folder, or a hub id. Only weights in safetensors are read.
        device: that it runs on.

    Raises:
        ModelError: it is not on this machine, lacks a weight, or is no CLIP; the message says what
            helps.
    """
    from transformers import CLIPModel, CLIPProcessor

    found = kind_of_pretrained(name, CLIPModel, "CLIP")
    if found != "clip":
        raise ModelError(f"{name} is no CLIP, but a {found}: name a CLIP, such as {CLIP}")
    model, processor = load_pretrained(name, CLIPModel, CLIPProcessor, "CLIP")
    return Clip(model.to(device), processor)
