"""The base of every pipeline: a model's parts, loaded and saved as in diffusers."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import DiffusionPipeline
from torch import nn

from dehaze.inversion.ddim import check_scheduler
from dehaze.inversion.flow import check_flow_scheduler
from dehaze.models import ModelError
from dehaze.models.hooks import is_offloaded
from dehaze.models.kinds import KINDS, STABLE_DIFFUSION, kind_of
from dehaze.models.load import load_parts
from dehaze.models.needs import ModelDescription, describe
from dehaze.models.source import BUNDLED, ModelSource
from dehaze.pipelines.denoising import Denoising
from dehaze.pipelines.inverting import Inverting

Pipeline = TypeVar("Pipeline", bound="InversionPipeline")

_PARTS = tuple(dict.fromkeys(part for kind in KINDS for part in kind.parts))


class InversionPipeline(Inverting, Denoising, DiffusionPipeline):
    """A text-to-image model that inverts photos, and denoises them under control.

    Args:
        vae: the codec: AutoencoderKL or PixelUnshuffleCodec.
        text_encoder: CLIPTextModel; CLIPTextModelWithProjection in Stable Diffusion 3.
        tokenizer: CLIPTokenizer.
        unet: UNet2DConditionModel with cross-attention; None with a transformer.
        scheduler: see ``dehaze.inversion.ddim.READABLE_SCHEDULERS``; with a transformer
            FlowMatchEulerDiscreteScheduler.
        description: the model's needs and defaults; derived from the parts when None.
        text_encoder_2: CLIPTextModelWithProjection of Stable Diffusion XL or 3, T5EncoderModel of
            FLUX, or None.
        tokenizer_2: its tokenizer, or None.
        transformer: SD3Transformer2DModel or FluxTransformer2DModel, or None.
        text_encoder_3: T5EncoderModel of Stable Diffusion 3, or None.
        tokenizer_3: its T5TokenizerFast, or None.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->text_encoder_3->unet->transformer->vae"
    _optional_components = [  # noqa: RUF012
        "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3", "unet", "transformer",
    ]  # fmt: skip

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        scheduler: Any,
        description: ModelDescription | None = None,
        text_encoder_2: Any = None,
        tokenizer_2: Any = None,
        transformer: Any = None,
        text_encoder_3: Any = None,
        tokenizer_3: Any = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
            transformer=transformer,
            text_encoder_3=text_encoder_3,
            tokenizer_3=tokenizer_3,
        )
        self.description = description or describe(self.denoiser, vae)

    @property
    def _execution_device(self) -> torch.device:
        """The device that the networks run on.

        At each reading diffusers walks through all modules of all parts several times, to find
        what is offloaded. Where one walk finds nothing, the weights say where they are.
        """
        parts = [part for part in self.components.values() if isinstance(part, nn.Module)]
        if any(map(is_offloaded, parts)):
            device: torch.device = super()._execution_device
            return device
        weights = (next(chain(part.parameters(), part.buffers()), None) for part in parts)
        devices = [tensor.device for tensor in weights if tensor is not None]
        elsewhere = (device for device in devices if device.type not in ("cpu", "meta"))
        return next(elsewhere, devices[0])

    @classmethod
    def from_pretrained(
        cls: type[Pipeline],
        pretrained_model_name_or_path: str | Path = BUNDLED,
        *,
        torch_dtype: torch.dtype | None = None,
        revision: str | None = None,
        variant: str | None = None,
        local_files_only: bool = False,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
    ) -> Pipeline:
        """Loads a pipeline; arguments as in diffusers.

        Args:
            pretrained_model_name_or_path: "bundled", a folder in diffusers' format, a .safetensors
                file of Stable Diffusion, or a hub id.
            torch_dtype: of the network and the text encoder; float32 when None.
            revision, variant, local_files_only, cache_dir, token: see
                ``dehaze.models.source.ModelSource``.

        Raises:
            ModelError: the model is missing, incomplete, damaged, or of a kind that is not
                supported; the message is one line that names the file.
        """
        source = ModelSource(
            pretrained_model_name_or_path, revision, variant, local_files_only, cache_dir, token
        )
        return cls(**vars(load_parts(source, torch_dtype)))

    def save_pretrained(self, save_directory: str | Path, **settings: Any) -> None:
        """Saves the pipeline as diffusers does, and its description as ``dehaze.json``.

        Args:
            save_directory: made if missing.
            settings: of diffusers' ``save_pretrained``.

        Raises:
            ModelError: weights were to be pickled.
        """
        if not settings.get("safe_serialization", True):
            raise ModelError("weights are saved as safetensors alone: leave safe_serialization out")
        super().save_pretrained(save_directory, **settings)
        self.description.save(Path(save_directory))

    def enable_sequential_cpu_offload(self, *unused: Any, **settings: Any) -> None:
        """Refused, since the weights could not be read between calls.

        An inversion knows its model by its weights, see ``Provenance``.

        Raises:
            ModelError: always.
        """
        raise ModelError(
            "enable_sequential_cpu_offload hides the weights, by which an inversion knows its "
            "model: use enable_model_cpu_offload or enable_group_offload"
        )

    @classmethod
    def from_pipe(cls: type[Pipeline], pipeline: DiffusionPipeline, **components: Any) -> Pipeline:
        """A pipeline of this kind on the parts of another one; nothing is loaded or copied.

        Args:
            pipeline: of this library, or a text-to-image pipeline of diffusers:
                ``StableDiffusionPipeline``, ``StableDiffusionXLPipeline``,
                ``StableDiffusion3Pipeline``, ``FluxPipeline`` and their kin.
            components: parts that replace the other's, by name.

        Raises:
            ModelError: a part is missing.
            ScheduleError: the scheduler is of another process than the model's.

        Example:
            >>> from dehaze import DehazePipeline, EditPipeline
            >>> pipe = DehazePipeline.from_pretrained("bundled")
            >>> editor = EditPipeline.from_pipe(pipe)
        """
        # Not ``pipeline.components``, which diffusers refuses to list where a part is None.
        parts = {name: getattr(pipeline, name, None) for name in _PARTS} | components
        network_name = "unet" if getattr(pipeline, "transformer", None) is None else "transformer"
        network = parts[network_name]
        kind = STABLE_DIFFUSION if network is None else kind_of(network)
        unknown = sorted(set(components) - set(kind.parts))
        missing = [name for name in kind.needed if parts[name] is None]
        if unknown or missing:
            raise ModelError(
                f"{type(pipeline).__name__} has no {', '.join(missing)}"
                if missing
                else f"there is no part {', '.join(unknown)}: there are {', '.join(kind.parts)}"
            )
        (check_scheduler if kind.process == "ddim" else check_flow_scheduler)(parts["scheduler"])
        description = getattr(pipeline, "description", None)
        if description is None or not {kind.network, "vae"}.isdisjoint(components):
            description = describe(network, parts["vae"])
        if getattr(pipeline.config, "force_zeros_for_empty_prompt", False):
            description = replace(description, zero_null_text=True)
        shared = cls(**parts, description=description)
        shared.guidance_in_two_calls = getattr(pipeline, "guidance_in_two_calls", False)
        shared.attention_memory = getattr(pipeline, "attention_memory", None)
        shared.set_progress_bar_config(**getattr(pipeline, "_progress_bar_config", {}))
        return shared
