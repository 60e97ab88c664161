"""CLIP as a judge: how well a picture shows what a prompt says."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch.nn import functional as F

from dehaze.errors import first_line
from dehaze.models import ModelError

CLIP = "openai/clip-vit-large-patch14"
"""The hub id of CLIP's ViT-L/14, which published scores are of."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clip:
    """CLIP's similarity of a picture and a prompt.

    Attributes:
        model: a CLIPModel.
        processor: its CLIPProcessor.

    Source: CLIPScore, arXiv 2104.08718, which is the similarity where it is above 0, else 0.
    """

    model: Any
    processor: Any

    @torch.no_grad()
    def __call__(self, picture: NDArray[np.uint8], prompt: str) -> float:
        """A hundred times the cosine of the two embeddings, in [-100, 100].

        Args:
            picture: uint8 (H, W, 3) RGB.
            prompt: what is beyond CLIP's length is cut off, with a warning.
        """
        length = int(self.model.config.text_config.max_position_embeddings)
        # Not verbose: the tokenizer's own warning says nothing of CLIP, nor which prompt it was.
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
        return 100.0 * float((image * text).sum())


def load_clip(name: str = CLIP, device: torch.device | str = "cpu") -> Clip:
    """CLIP from a folder, or from the hub's cache on this machine: nothing is downloaded.

    Args:
        name: the folder, or a hub id. Only weights in safetensors are read.
        device: that it runs on.

    Raises:
        ModelError: it is not on this machine, or lacks a weight; the message says what helps.
    """
    from transformers import CLIPModel, CLIPProcessor

    try:
        model, loading = CLIPModel.from_pretrained(
            name, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        processor = CLIPProcessor.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"CLIP ({name}) is not on this machine: download it, its weights as safetensors and "
            "its processor with them, or name its folder"
        ) from error
    except (SafetensorError, RuntimeError) as error:
        raise ModelError(
            f"CLIP ({name}) does not load ({first_line(error)}): get its files again, all of one "
            "model"
        ) from error
    lacking = sorted(loading["missing_keys"])
    if lacking:
        raise ModelError(
            f"CLIP ({name}) lacks the weight {lacking[0]}: get its files again, all of one model"
        )
    return Clip(model.eval().to(device), processor)
