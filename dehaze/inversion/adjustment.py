"""Adjustments: they change a picture to fit its prompt better, before it is inverted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dehaze.inversion.noise_network import NoiseNetwork
from dehaze.inversion.step import noised
from dehaze.registry import Registry


@dataclass(frozen=True)
class Adjustment:
    """A registered way to bring a picture nearer to its prompt before it is inverted.

    Attributes:
        move: takes a network under the prompt, z_0 and a seed; returns another z_0.
        source: where it was published.
    """

    move: Callable[[NoiseNetwork, Tensor, int], Tensor]
    source: str


_NOISING_STEPS = 2


def noise_and_denoise(network: NoiseNetwork, latents: Tensor, seed: int) -> Tensor:
    """Two noising steps and two denoising steps with the prompt; nothing is drawn.

    Noising is plain DDIM inversion, z_i = A_i z_{i-1} + B_i eps(z_{i-1}, i). Denoising is DDIM. The
    two differ where the picture does not fit the prompt.

    Raises:
        ValueError: the schedule has fewer steps.

    Source: the text of FPI, arXiv 2312.12540, section 3.3.
    """
    table, z = network.table, latents
    if table.steps < _NOISING_STEPS:
        raise ValueError(
            f"the adjustment takes {_NOISING_STEPS} steps and the schedule has {table.steps}"
        )
    everyone = torch.arange(z.shape[0], device=z.device)
    for i in range(1, _NOISING_STEPS + 1):
        z = table.inverse_step(z, network(z, i, everyone), i)
    for i in range(_NOISING_STEPS, 0, -1):
        z = table.denoise_step(z, network(z, i, everyone), i)
    return z


_IMG2IMG_STRENGTH = 0.05


def image_to_image(network: NoiseNetwork, latents: Tensor, seed: int) -> Tensor:
    """Image-to-image at strength .05: random noise, then DDIM under the prompt.

    It runs int(.05 N) of N steps, from sqrt(a_i) z_0 + s_i n, as diffusers' img2img does. The
    published code takes N = 50, the inversion's guidance, and a z_0 drawn from the encoder's
    posterior. Here z_0 is the posterior's mode.

    Raises:
        ValueError: the schedule has so few steps that none would be run.

    Source: main.py in the published code of FPI, arXiv 2312.12540; SDEdit, arXiv 2108.01073.
    """
    table = network.table
    last = int(table.steps * _IMG2IMG_STRENGTH)
    if last < 1:
        raise ValueError(
            f"img2img at strength {_IMG2IMG_STRENGTH} runs none of {table.steps} steps: take "
            f"{math.ceil(1.0 / _IMG2IMG_STRENGTH)} or more"
        )
    everyone = torch.arange(latents.shape[0], device=latents.device)
    z = noised(table, latents, last, seed=seed)
    for i in range(last, 0, -1):
        z = table.denoise_step(z, network(z, i, everyone), i)
    return z


ADJUSTMENTS: Registry[Adjustment] = Registry("adjustment")
ADJUSTMENTS.register(
    "noise-denoise", Adjustment(noise_and_denoise, "the text of FPI, arXiv 2312.12540, section 3.3")
)
ADJUSTMENTS.register(
    "img2img", Adjustment(image_to_image, "the code of FPI, arXiv 2312.12540, main.py")
)


@torch.no_grad()
def adjust(
    name: str, network: NoiseNetwork, latents: Tensor, *, repeats: int = 1
) -> tuple[Tensor, Tensor]:
    """Brings a picture nearer to its prompt, which changes it.

    Even an exact inversion then brings back the new picture, not the old one.

    Args:
        name: of a registered adjustment.
        network: under the prompt, at the inversion's guidance.
        latents: z_0, float (B, C, H, W).
        repeats: how often.

    Returns:
        z_0 to invert instead, and (B,), the norm of the change over that of the old z_0.

    Raises:
        ValueError: there is no such adjustment, or the schedule has too few steps for it.
        NonFiniteError: the network returned a value that is not finite.
    """
    adjustment = ADJUSTMENTS.get(name)
    adjusted = latents
    for repeat in range(repeats):
        adjusted = adjustment.move(network, adjusted, repeat)
    change = (adjusted - latents).flatten(1).norm(dim=1)
    return adjusted, change / latents.flatten(1).norm(dim=1).clamp(min=1e-12)
