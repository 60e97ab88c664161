"""Brings a picture a little nearer to its prompt before it is inverted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dehaze.inversion.denoising import denoise
from dehaze.inversion.inverter import Inverter
from dehaze.inversion.result import InversionResult, NoiseNetwork
from dehaze.inversion.schedule import DDIMTable

_STEPS = 2


@dataclass(frozen=True)
class Adjustment:
    """An adjusted picture.

    Attributes:
        latents: z_0 to invert instead, (B, C, H, W).
        distance: (B,), root mean square of what was changed, relative to that of the old z_0.
        nfe: network evaluations a sample, calls of the network each counted once.
    """

    latents: Tensor
    distance: Tensor
    nfe: int


@torch.no_grad()
def prompt_aware_adjustment(table: DDIMTable, network: NoiseNetwork, latents: Tensor) -> Adjustment:
    """Two noising steps, two denoising steps, with the prompt.

    Noising is plain DDIM inversion, z_i = A_i z_{i-1} + B_i eps(z_{i-1}, i), denoising DDIM: what
    the two do not agree on is what the prompt and the picture do not agree on. Off by
    default: it changes the picture, and an exact inversion of the new one does not bring the
    old one back.

    Args:
        table: the schedule, of at least 2 steps.
        network: under the source prompt.
        latents: z_0, float (B, C, H, W).

    Raises:
        ValueError: the schedule has fewer steps.
        NonFiniteError: the network returned a value that is not finite.

    Source: FPI, arXiv 2312.12540, section 3.3.
    """
    noised = Inverter(table, network, solver="ddim").invert(latents, depth=_STEPS)
    adjusted = denoise(noised, network)
    change = (adjusted - latents).flatten(1).norm(dim=1)
    distance = change / latents.flatten(1).norm(dim=1).clamp(min=1e-12)
    return Adjustment(adjusted, distance, 2 * _STEPS)


def adjusted_invert(
    inverter: Inverter,
    latents: Tensor,
    *,
    depth: int | None = None,
    on_step: Callable[[int], None] = lambda i: None,
) -> InversionResult:
    """Inverts the adjusted picture, and says how far it was moved.

    Arguments and errors as of ``Inverter.invert`` and ``prompt_aware_adjustment``. The evaluations
    of the adjustment count to the two steps that it runs.
    """
    adjustment = prompt_aware_adjustment(inverter.table, inverter.network, latents)
    result = inverter.invert(adjustment.latents, depth=depth, on_step=on_step)
    nfe = result.trace.nfe.clone()
    run = nfe[:_STEPS]
    run += inverter.evaluations * adjustment.nfe // len(run)
    return replace(
        result, trace=replace(result.trace, nfe=nfe), adjustment=adjustment.distance.cpu()
    )
