"""What a model needs to be used well: sizes, schedule, prompt, where its attention sits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

DESCRIPTION_FILE = "dehaze.json"


@dataclass(frozen=True)
class ModelDescription:
    """A model's needs and defaults.

    Attributes:
        pixels_per_latent: pixels on a side of one position of the latents.
        size_multiple: pixels; the working height and width are multiples of it.
        short_side: pixels; the short side that the model works at.
        steps: DDIM steps.
        spacing: timestep spacing, None for the scheduler's own.
        solver: of the implicit inversion step.
        predictor: of the solver's start.
        relaxation: of the solver's updates.
        max_iterations: the solver's iterations a step.
        tolerance: relative, for the inversion.
        cross_replace_steps: share of the steps with the source's cross-attention maps, when a word
            is swapped for null text.
        self_replace_steps: likewise with its self-attention maps.
        prompt: the prompt that a hazy photo is inverted under.
        word: the word of it that is swapped for null text.
        map_layers: weight of each cross-attention layer in the haze attention map; None for all
            layers alike.
        vocabulary: every word that the model has learned, in lower case; None for a model that
            makes any word of pieces.
        zero_null_text: whether the empty prompt's embedding is all zeros rather than what the text
            encoders make of it: Stable Diffusion XL's ``force_zeros_for_empty_prompt``.
    """

    pixels_per_latent: int
    size_multiple: int
    short_side: int
    steps: int = 50
    spacing: str | None = None
    solver: str = "fixed-point"
    predictor: str = "previous"
    relaxation: str = "none"
    max_iterations: int = 5
    tolerance: float = 1e-4
    cross_replace_steps: float = 0.8
    self_replace_steps: float = 0.4
    prompt: str = "a photo with haze"
    word: str = "haze"
    map_layers: Mapping[str, float] | None = field(default=None)
    vocabulary: frozenset[str] | None = None
    zero_null_text: bool = False


def describe(unet: Any, vae: Any, folder: Path | None = None) -> ModelDescription:
    """Derives the needs of any diffusers pipeline from its parts' configurations.

    A ``dehaze.json`` in the model's folder replaces what is derived, field by field.

    Raises:
        ValueError: the ``dehaze.json`` names a field that there is not.
    """
    if "block_out_channels" in vae.config:
        pixels_per_latent = 2 ** (len(vae.config.block_out_channels) - 1)
    else:
        pixels_per_latent = int(vae.config.patch_size)
    sample_size = unet.config.sample_size
    short_latent = min(sample_size) if isinstance(sample_size, (list, tuple)) else int(sample_size)
    derived = ModelDescription(
        pixels_per_latent=pixels_per_latent,
        size_multiple=pixels_per_latent * 2 ** (len(unet.config.block_out_channels) - 1),
        short_side=pixels_per_latent * short_latent,
    )
    own = folder / DESCRIPTION_FILE if folder is not None else None
    if own is None or not own.is_file():
        return derived
    settings = json.loads(own.read_text())
    unknown = sorted(set(settings) - set(vars(derived)))
    if unknown:
        raise ValueError(f"{own} has unknown fields {', '.join(unknown)}")
    if settings.get("vocabulary") is not None:
        settings["vocabulary"] = frozenset(settings["vocabulary"])
    return replace(derived, **settings)
