"""A model's needs: sizes, schedule, prompt, and the layers of its attention map."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dehaze.inversion import (
    CRITERIA,
    PREDICTORS,
    RELAXATIONS,
    SOLVERS,
    InversionSettings,
    best_at_equal_cost,
)
from dehaze.inversion.spacings import SPACINGS
from dehaze.models import ModelError
from dehaze.models.kinds import FLUX, STABLE_DIFFUSION_3, kind_of

DESCRIPTION_FILE = "dehaze.json"


@dataclass(frozen=True)
class ModelDescription:
    """A model's needs and defaults.

    Attributes:
        pixels_per_latent: side of one position of the latents, in pixels.
        size_multiple: the working height and width are multiples of it, in pixels.
        short_side: short side of the picture that the model works on, in pixels.
        long_side: the longest side that the model works on, in pixels; None for no limit.
        inversion: how photos are inverted. In ``dehaze.json`` its fields stand beside the others.
        fitted_inversion: whether ``dehaze.inversion.best_at_equal_cost`` was fitted on this model.
        denoising_steps: steps of the way back to an edited picture, the last of which goes to the
            picture at once; None for as many as the inversion has.
        cross_replace_steps: share of the steps that take the source's cross-attention maps, when a
            word is swapped for null text.
        self_replace_steps: share of the steps that take its self-attention maps.
        prompt: prompt that a hazy photo is inverted under.
        word: word of the prompt that is swapped for null text.
        map_layers: weight of each cross-attention layer in the haze attention map; None for equal
            weights.
        vocabulary: every word that the model has learned, in lower case; None for a model whose
            tokens are parts of words.
        zero_null_text: whether the empty prompt's embedding is all zeros instead of the text
            encoders' output: Stable Diffusion XL's ``force_zeros_for_empty_prompt``.
    """

    pixels_per_latent: int
    size_multiple: int
    short_side: int
    long_side: int | None = None
    inversion: InversionSettings = field(default_factory=InversionSettings)
    fitted_inversion: bool = False
    denoising_steps: int | None = None
    cross_replace_steps: float = 0.8
    self_replace_steps: float = 0.4
    prompt: str = "a photo with haze"
    word: str = "haze"
    map_layers: Mapping[str, float] | None = field(default=None)
    vocabulary: frozenset[str] | None = None
    zero_null_text: bool = False

    def settings(self) -> dict[str, Any]:
        """The fields as ``dehaze.json`` holds them, those of the inversion beside the others."""
        own = {name: getattr(self.inversion, name) for name in INVERSION_FIELDS}
        for name, value in vars(self).items():
            if name != "inversion":
                own[name] = sorted(value) if isinstance(value, frozenset) else value
        return own

    def save(self, folder: Path) -> None:
        """Writes ``dehaze.json``, from which ``describe`` makes the same description again.

        Raises:
            ModelError: the inversion has a setting that the file has no place for.
        """
        usual = vars(InversionSettings())
        lost = [
            name
            for name, value in vars(self.inversion).items()
            if name not in INVERSION_FIELDS and value != usual[name]
        ]
        if lost:
            raise ModelError(
                f"{DESCRIPTION_FILE} has no place for the inversion's {', '.join(lost)}: leave it "
                "to each call"
            )
        text = json.dumps(self.settings(), indent=2, default=dict)
        (folder / DESCRIPTION_FILE).write_text(text + "\n", encoding="utf-8")

    def reconstructing(self, steps: int | None = None) -> InversionSettings:
        """The settings that reconstruct best for their cost; N is the model's own when None.

        It is the model's own inversion where nothing was fitted on the model.
        """
        chosen = self.inversion.changed(steps=steps)
        if not self.fitted_inversion:
            return chosen
        return replace(best_at_equal_cost(chosen.steps), spacing=chosen.spacing)


# The default of diffusers' pipelines of Stable Diffusion 3 and FLUX.
_FLOW_STEPS = 28
# FLUX's configuration names no size; its pipeline makes latents of this side by default.
_FLUX_SIDE = 128


def describe(network: Any, vae: Any, folder: Path | None = None) -> ModelDescription:
    """Derives the needs of any diffusers pipeline from its parts' configurations.

    A ``dehaze.json`` in the model's folder replaces what is derived, field by field.

    Raises:
        ModelError: the ``dehaze.json`` is torn, names a field that there is not, or has a value
            that cannot be.
    """
    if "block_out_channels" in vae.config:
        pixels_per_latent = 2 ** (len(vae.config.block_out_channels) - 1)
    else:
        pixels_per_latent = int(vae.config.patch_size)
    derived = _derived(network, pixels_per_latent)
    own = folder / DESCRIPTION_FILE if folder is not None else None
    if own is None or not own.is_file():
        return derived
    try:
        settings = json.loads(own.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{own} is no whole JSON file ({error}): mend or remove it") from error
    if not isinstance(settings, dict):
        raise ModelError(f"{own} is no JSON object: mend or remove it")
    unknown = sorted(set(settings) - set(_FIELDS))
    if unknown:
        raise ModelError(f"{own} has unknown fields {', '.join(unknown)}")
    for name, value in settings.items():
        may, check = _FIELDS[name]
        if not check(value):
            raise ModelError(f"{own}: {name} is {value!r}, and must be {may}")
    inversion = {name: settings.pop(name) for name in INVERSION_FIELDS if name in settings}
    settings["inversion"] = replace(derived.inversion, **inversion)
    if settings.get("vocabulary") is not None:
        settings["vocabulary"] = frozenset(settings["vocabulary"])
    return replace(derived, **settings)


def _derived(network: Any, pixels_per_latent: int) -> ModelDescription:
    kind, config = kind_of(network), network.config
    if kind is FLUX:
        return ModelDescription(
            pixels_per_latent,
            size_multiple=2 * pixels_per_latent,
            short_side=_FLUX_SIDE * pixels_per_latent,
            inversion=InversionSettings(steps=_FLOW_STEPS),
        )
    sample_size = config.sample_size
    short_latent = min(sample_size) if isinstance(sample_size, (list, tuple)) else int(sample_size)
    short_side = pixels_per_latent * short_latent
    if kind is STABLE_DIFFUSION_3:
        patch = pixels_per_latent * int(config.patch_size)
        return ModelDescription(
            pixels_per_latent,
            size_multiple=patch,
            short_side=short_side,
            # The network has learned a position for each patch of a square with this many patches a
            # side.
            long_side=patch * int(config.pos_embed_max_size),
            inversion=InversionSettings(steps=_FLOW_STEPS),
        )
    return ModelDescription(
        pixels_per_latent,
        size_multiple=pixels_per_latent * 2 ** (len(config.block_out_channels) - 1),
        short_side=short_side,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count_or_none(value: Any) -> bool:
    return value is None or (type(value) is int and value >= 1)


def _is_layers(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and all(map(_is_number, value.values())))


def _is_words(value: Any) -> bool:
    return value is None or (
        isinstance(value, list) and all(isinstance(word, str) for word in value)
    )


_Field = tuple[str, Callable[[Any], bool]]
_COUNT: _Field = ("a whole number from 1", lambda value: type(value) is int and value >= 1)
_SHARE: _Field = ("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1)
_CHOICE: _Field = ("true or false", lambda value: isinstance(value, bool))
_TEXT: _Field = ("a text", lambda value: isinstance(value, str) and bool(value.strip()))

# The values that each field of a dehaze.json may have, in words and as a test.
_FIELDS: dict[str, _Field] = {
    "pixels_per_latent": _COUNT,
    "size_multiple": _COUNT,
    "short_side": _COUNT,
    "long_side": ("null or a whole number from 1", _is_count_or_none),
    "fitted_inversion": _CHOICE,
    "denoising_steps": ("null or a whole number from 1", _is_count_or_none),
    "cross_replace_steps": _SHARE,
    "self_replace_steps": _SHARE,
    "prompt": _TEXT,
    "word": _TEXT,
    "map_layers": ("null or numbers by the names of layers", _is_layers),
    "vocabulary": ("null or a list of words", _is_words),
    "zero_null_text": _CHOICE,
}
# The fields among them that belong to ``inversion``.
INVERSION_FIELDS: dict[str, _Field] = {
    "steps": _COUNT,
    "spacing": (
        f"null or one of {', '.join(SPACINGS.names())}",
        lambda value: value in (None, *SPACINGS.names()),
    ),
    "solver": ("a solver", lambda value: value in SOLVERS.names()),
    "predictor": ("a predictor", lambda value: value in PREDICTORS.names()),
    "relaxation": ("a relaxation", lambda value: value in RELAXATIONS.names()),
    "criterion": ("a criterion", lambda value: value in CRITERIA.names()),
    "max_iterations": _COUNT,
    "tolerance": ("a number above 0", lambda value: _is_number(value) and value > 0),
}
_FIELDS |= INVERSION_FIELDS
