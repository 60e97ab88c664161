"""The way back from an inverted latent: reconstruction, edit, and anything between."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dehaze.inversion.methods import get_method
from dehaze.inversion.result import InversionResult, NoiseNetwork


def denoise(
    inversion: InversionResult,
    network: NoiseNetwork,
    *,
    source_network: NoiseNetwork | None = None,
    strength: float | Tensor = 1.0,
    revise: Callable[[int, Tensor, Tensor], Tensor] = lambda i, latents, noise: latents,
    on_step: Callable[[int, Tensor], None] = lambda i, latents: None,
) -> Tensor:
    """Denoises z_n back to z_0, between the inversion's own noise and the target's.

    At each step eps = eps_src + w (eps_tgt - eps_src), where eps_src is the noise that made the
    step in the inversion. w = 0 undoes the inversion exactly and never runs the network; w = 1 is
    the target prompt alone. The sampler is that of the method which inverted: DDIM, EDICT or BDIA.

    Args:
        inversion: from ``Inverter.invert``.
        network: under the target prompt.
        source_network: under the source prompt; takes eps_src at the latents of the way back
            instead, for an evaluation more a step.
        strength: w, one number, or a map that broadcasts to (B, C, H, W).
        revise: what becomes of z_{i-1} after step i, from i, z_{i-1} and the step's eps.
        on_step: called with i and z_{i-1} after each step.

    Returns:
        z_0, float32 (B, C, H, W).

    Raises:
        NonFiniteError: the network returned a value that is not finite.
    """
    everyone = torch.arange(inversion.latents.shape[0], device=inversion.latents.device)
    untouched = not bool(torch.as_tensor(strength).any())

    def noise_at(z: Tensor, i: int, source: Tensor) -> Tensor:
        if source_network is not None:
            source = source_network(z, i, everyone)
        if untouched:
            return source
        return source + strength * (network(z, i, everyone) - source)

    def after_step(i: int, z: Tensor, noise: Tensor) -> Tensor:
        z = revise(i, z, noise)
        on_step(i, z)
        return z

    return get_method(inversion.method).denoise(inversion, noise_at, after_step)
