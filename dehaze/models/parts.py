"""The parts of a text-to-image model, loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dehaze.models.needs import ModelDescription


@dataclass(frozen=True)
class ModelParts:
    """The parts of a text-to-image model, by the names that diffusers gives them.

    The network is ``unet`` or ``transformer``, the other one None. Further text encoders are Stable
    Diffusion XL's (the second), FLUX's (the second) and Stable Diffusion 3's (the second and the
    third); None elsewhere.
    """

    vae: Any
    text_encoder: Any
    tokenizer: Any
    unet: Any
    scheduler: Any
    description: ModelDescription
    text_encoder_2: Any = None
    tokenizer_2: Any = None
    transformer: Any = None
    text_encoder_3: Any = None
    tokenizer_3: Any = None
