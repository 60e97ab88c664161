"""Stable Diffusion 1.x, 2.x and XL from one safetensors file, as the original code saves them.

Such a file holds only weights, under other names than diffusers'. The networks' configurations, the
schedule and the tokenizers come from a layout, a folder in diffusers' format without weights.
Diffusers' own functions translate the names. They silently skip names that they do not know, which
are refused here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import (
    SD_2_TEXT_ENCODER_KEYS_TO_IGNORE,
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
    fetch_diffusers_config,
)
from torch import Tensor

from dehaze.models import ModelError
from dehaze.models.weights import Weights, read_weights

_NETWORK = "model.diffusion_model."
_CODEC = "first_stage_model."
# Prefixes of the first and second text encoder, in 1.x, 2.x, and XL with its two.
_CLIP = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
_OPEN_CLIP = ("cond_stage_model.model.", "conditioner.embedders.1.model.")

# Weights beside the networks: a running average, the noise schedule, which is the layout's here,
# and constants.
_UNUSED_STARTS = ("model_ema.", "denoiser.", "posterior_", "log_one_minus_", "sqrt_", "alphas_")
_UNUSED_ENDS = ("logit_scale", "position_ids")
_UNUSED = frozenset(
    {*SD_2_TEXT_ENCODER_KEYS_TO_IGNORE, "betas", "logvar", "lvlb_weights", "scale_factor"}
)


def usual_layout(shapes: Weights, file: Path) -> str:
    """The hub id of the published model of the same layout, as far as shapes tell.

    Models 2.x of both prediction types have equal shapes, and are taken for 2.1, which predicts v.

    Raises:
        ModelError: the file holds no diffusion network.
    """
    _check_kind(shapes, file)
    return str(fetch_diffusers_config(shapes)["pretrained_model_name_or_path"])


class SingleFile:
    """The weights of one file, by the names that the networks of its layout give them.

    Args:
        file: a .safetensors file.

    Raises:
        ModelError: it is torn, or holds no diffusion network.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._weights = read_weights(file)
        self._left = {name for name in self._weights if not _is_unused(name)}
        _check_kind(self._weights, file)

    def weights(self, part: str, network: Any) -> Weights:
        """The weights of one network, by diffusers' and transformers' names.

        Args:
            part: the network's folder in the layout.
            network: of that part, without weights.

        Raises:
            ModelError: there are none, or some without which no name can be translated.
        """
        prefix, translate = self._translation(part, network)
        own = {name: value for name, value in self._weights.items() if name.startswith(prefix)}
        # Each weight is first replaced by its number, which shows the ones that are translated.
        names = list(own)
        numbered = {
            name: torch.tensor(float(number)).expand(own[name].shape)
            for number, name in enumerate(names)
        }
        try:
            numbers = [value for value in translate(numbered).values() if value is not None]
            translated = translate(own).items()
        except (KeyError, IndexError) as error:
            raise ModelError(
                f"{self.file} lacks the weight {error} under {prefix}: get it again"
            ) from error
        self._left -= {names[int(number.flatten()[0])] for number in numbers}
        # Where one of a pair is missing, the translation returns None for the other.
        return {name: value for name, value in translated if value is not None}

    def check_all_used(self) -> None:
        """Refuses a file with weights that no network took.

        Raises:
            ModelError: a weight is left; the message names it.
        """
        if self._left:
            raise ModelError(
                f"{self.file} holds {len(self._left)} weights that its layout has no place for, "
                f"{min(self._left)} for one: it is another kind of model, or its layout is"
            )

    def _translation(
        self, part: str, network: Any
    ) -> tuple[str, Callable[[dict[str, Tensor]], Mapping[str, Tensor]]]:
        """Prefix of a network's weights in the file, and the function that translates names."""
        config = dict(network.config) if part in ("unet", "vae") else {}
        if part == "unet":
            return _NETWORK, partial(convert_ldm_unet_checkpoint, config=config)
        if part == "vae":
            return _CODEC, partial(convert_ldm_vae_checkpoint, config=config)
        second = part == "text_encoder_2"
        for prefix in (*_CLIP, *_OPEN_CLIP):
            if (prefix == _OPEN_CLIP[1]) == second and any(
                name.startswith(prefix) for name in self._weights
            ):
                if prefix in _CLIP:
                    return prefix, convert_ldm_clip_checkpoint
                return prefix, partial(convert_open_clip_checkpoint, network, prefix=prefix)
        raise ModelError(f"{self.file} has no weights of the {part} that its layout asks for")


def _check_kind(weights: Weights, file: Path) -> None:
    if not any(name.startswith(_NETWORK) for name in weights):
        raise ModelError(
            f"{file} has no weights under {_NETWORK}: it is no Stable Diffusion in one file"
        )


def _is_unused(name: str) -> bool:
    return name in _UNUSED or name.startswith(_UNUSED_STARTS) or name.endswith(_UNUSED_ENDS)
