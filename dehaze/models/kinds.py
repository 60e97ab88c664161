"""The kinds of model: which parts each has, and how it reads a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from dehaze.inversion.schedule import Process


@dataclass(frozen=True)
class ModelKind:
    """A kind of text-to-image model.

    Attributes:
        name: of the kind, in words.
        network: the folder of the network that denoises, and its name as a part.
        classes: the classes that a part with weights may have, by the part's name.
        optional: the parts that it may lack.
        process: see ``dehaze.inversion.StepTable``.
        pooled: the text encoders from which the network takes the sum of a text, at its end.
    """

    name: str
    network: Literal["unet", "transformer"]
    classes: dict[str, tuple[str, ...]]
    optional: tuple[str, ...] = ()
    process: Process = "ddim"
    pooled: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """Every part, those without weights included."""
        return (*self.classes, *map(tokenizer_of, self.encoders), "scheduler")

    @property
    def encoders(self) -> tuple[str, ...]:
        """The text encoders, in order."""
        return tuple(part for part in self.classes if part.startswith("text_encoder"))

    @property
    def needed(self) -> tuple[str, ...]:
        """The parts that it cannot lack."""
        return tuple(part for part in self.parts if part not in self.optional)


def tokenizer_of(encoder: str) -> str:
    """The name of a text encoder's tokenizer."""
    return encoder.replace("text_encoder", "tokenizer")


STABLE_DIFFUSION = ModelKind(
    "Stable Diffusion",
    "unet",
    {
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL", "CellsCodec", "PixelUnshuffleCodec"),
        "text_encoder": ("CLIPTextModel",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
    },
    optional=("text_encoder_2", "tokenizer_2"),
    pooled=("text_encoder_2",),
)
STABLE_DIFFUSION_3 = ModelKind(
    "Stable Diffusion 3",
    "transformer",
    {
        "transformer": ("SD3Transformer2DModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModelWithProjection",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "text_encoder_3": ("T5EncoderModel",),
    },
    process="flow",
    pooled=("text_encoder", "text_encoder_2"),
)
FLUX = ModelKind(
    "FLUX",
    "transformer",
    {
        "transformer": ("FluxTransformer2DModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModel",),
        "text_encoder_2": ("T5EncoderModel",),
    },
    process="flow",
    pooled=("text_encoder",),
)
KINDS = (STABLE_DIFFUSION, STABLE_DIFFUSION_3, FLUX)


def kind_of(network: Any) -> ModelKind:
    """The kind of model that a denoising network belongs to, by its configuration."""
    config = network.config
    if getattr(config, "axes_dims_rope", None) is not None:
        return FLUX
    if getattr(config, "pos_embed_max_size", None) is not None:
        return STABLE_DIFFUSION_3
    return STABLE_DIFFUSION


def t5_tokens(network: Any) -> int:
    """The most tokens of T5 that a transformer reads: 256, and 512 in FLUX.1 dev.

    Source: diffusers' pipelines; the code of Black Forest Labs for FLUX.1 schnell.
    """
    return 512 if has_distilled_guidance(network) else 256


def has_distilled_guidance(network: Any) -> bool:
    """Whether the network takes guidance as a number, as FLUX.1-dev does.

    Such a network predicts at once what guidance makes of two predictions.
    """
    return bool(getattr(network.config, "guidance_embeds", False))
