"""Whether the networks of a model fit each other, by their configurations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dehaze.models import ModelError
from dehaze.models.kinds import FLUX, STABLE_DIFFUSION, STABLE_DIFFUSION_3, ModelKind


def check_fit(kind: ModelKind, folder: Path, networks: Mapping[str, Any]) -> None:
    """Refuses networks that do not fit each other, or that need inputs beside text.

    Args:
        kind: of the model.
        folder: of the model, for the messages.
        networks: by the names of their parts.

    Raises:
        ModelError: the message names the configuration, the setting and what it should be.
    """
    _CHECKS[kind.name](folder, networks)


def _check_unet(folder: Path, networks: Mapping[str, Any]) -> None:
    """``check_fit`` of Stable Diffusion 1.x, 2.x and XL."""
    unet, vae = networks["unet"].config, networks["vae"].config
    path = folder / "unet" / "config.json"
    for setting in ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type"):
        _demand(path, setting, unet.get(setting), None)
    # Guidance distilled into the network, as in latent consistency models.
    _demand(path, "time_cond_proj_dim", unet.get("time_cond_proj_dim"), None)
    _check_size(path, unet)
    # An autoencoder's configuration states its channels; a codec's follow from its patches.
    latents = vae.get("latent_channels") or networks["vae"].latent_channels
    _demand(path, "in_channels", unet["in_channels"], latents)
    _demand(path, "out_channels", unet["out_channels"], latents)
    encoders = [networks[part].config for part in ("text_encoder", "text_encoder_2")
                if part in networks]  # fmt: skip
    width = sum(int(encoder.hidden_size) for encoder in encoders)
    _demand(path, "cross_attention_dim", unet["cross_attention_dim"], width)
    second = len(encoders) == 2
    _demand(path, "addition_embed_type", unet.get("addition_embed_type"),
            "text_time" if second else None)  # fmt: skip
    if second:
        size = 6 * int(unet["addition_time_embed_dim"]) + int(encoders[1].projection_dim)
        setting = "projection_class_embeddings_input_dim"
        _demand(path, setting, unet[setting], size)
    _check_codec(folder, vae)


def _check_codec(folder: Path, config: Mapping[str, Any]) -> None:
    path = folder / "vae" / "config.json"
    for setting in ("latents_mean", "latents_std"):
        _demand(path, setting, config.get(setting), None)
    factor: Any = config.get("scaling_factor")
    shift = config.get("shift_factor")
    if not _is_number(factor) or factor <= 0:
        raise ModelError(f"{path} has scaling_factor={factor!r}, which must be above 0")
    if shift is not None and not _is_number(shift):
        raise ModelError(f"{path} has shift_factor={shift!r}, which must be a number or null")


def _check_size(path: Path, config: Mapping[str, Any]) -> None:
    """Refuses a latent size that is no whole number from 1, and no pair of them."""
    size = config.get("sample_size")
    sides: list[Any] = list(size) if isinstance(size, (list, tuple)) else [size]
    if not sides or not all(type(side) is int and side >= 1 for side in sides):
        raise ModelError(f"{path} has sample_size={size!r}, which must be whole numbers from 1")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and type(value) is not bool and math.isfinite(value)


def _check_stable_diffusion_3(folder: Path, networks: Mapping[str, Any]) -> None:
    """``check_fit`` of Stable Diffusion 3."""
    network, vae = networks["transformer"].config, networks["vae"].config
    path = folder / "transformer" / "config.json"
    for setting in ("in_channels", "out_channels"):
        _demand(path, setting, network[setting], vae["latent_channels"])
    _check_size(path, network)
    # Attention control and the schedule count positions of 2 x 2 latents.
    _demand(path, "patch_size", network["patch_size"], 2)
    clips = [networks[part].config for part in ("text_encoder", "text_encoder_2")]
    width = int(networks["text_encoder_3"].config.d_model)
    _demand(path, "joint_attention_dim", network["joint_attention_dim"], width)
    rows = sum(int(clip.hidden_size) for clip in clips)
    if rows > width:
        raise ModelError(
            f"{folder} has CLIP encoders of {rows} numbers a token and a T5 of {width}, which is "
            "less: its parts are of different models"
        )
    pooled = sum(int(clip.projection_dim) for clip in clips)
    _demand(path, "pooled_projection_dim", network["pooled_projection_dim"], pooled)
    _check_codec(folder, vae)


def _check_flux(folder: Path, networks: Mapping[str, Any]) -> None:
    """``check_fit`` of FLUX."""
    network, vae = networks["transformer"].config, networks["vae"].config
    path = folder / "transformer" / "config.json"
    # Four latents a position; models for inpainting or control have further channels.
    _demand(path, "in_channels", network["in_channels"], 4 * int(vae["latent_channels"]))
    _demand(path, "out_channels", network.get("out_channels") or network["in_channels"],
            network["in_channels"])  # fmt: skip
    _demand(path, "patch_size", network["patch_size"], 1)
    width = int(networks["text_encoder_2"].config.d_model)
    _demand(path, "joint_attention_dim", network["joint_attention_dim"], width)
    pooled = int(networks["text_encoder"].config.hidden_size)
    _demand(path, "pooled_projection_dim", network["pooled_projection_dim"], pooled)
    _check_codec(folder, vae)


def _demand(path: Path, setting: str, value: Any, wanted: Any) -> None:
    if value != wanted:
        raise ModelError(
            f"{path} has {setting}={value}, and only {wanted} can be used with the other parts: it "
            "is a model for another task, or its parts are of different models"
        )


_CHECKS = {
    STABLE_DIFFUSION.name: _check_unet,
    STABLE_DIFFUSION_3.name: _check_stable_diffusion_3,
    FLUX.name: _check_flux,
}
