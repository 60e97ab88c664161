"""The way back from an inverted latent: reconstruction, edit, and anything between."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dehaze.inversion.inverter import InversionResult, NetworkFunction, require_finite


def denoise(
    inversion: InversionResult,
    network: NetworkFunction,
    *,
    strength: float | Tensor = 1.0,
    revise: Callable[[int, Tensor, Tensor], Tensor] = lambda i, latents, noise: latents,
    on_step: Callable[[int, Tensor], None] = lambda i, latents: None,
) -> Tensor:
    """Denoises z_n back to z_0, between the inversion's own noise and the target's.

    At each step eps = eps_src + w (eps_tgt - eps_src), where eps_src is the noise that made the
    step in the inversion. w = 0 undoes the inversion exactly and never runs the network; w = 1 is
    the target prompt alone.

    Args:
        inversion: from ``Inverter.invert``.
        network: under the target prompt.
        strength: w, one number, or a map that broadcasts to (B, C, H, W).
        revise: what becomes of z_{i-1} after step i, from i, z_{i-1} and the step's eps.
        on_step: called with i and z_{i-1} after each step.

    Returns:
        z_0, float32 (B, C, H, W).

    Raises:
        NonFiniteError: the network returned a value that is not finite.
    """
    table = inversion.table
    z = inversion.latents
    everyone = torch.arange(z.shape[0], device=z.device)
    untouched = not bool(torch.as_tensor(strength).any())
    for i in range(inversion.steps, 0, -1):
        noise = inversion.noise[i - 1]
        if not untouched:
            output = network(z, i, everyone).to(z.dtype)
            require_finite(output, i, table)
            noise = noise + strength * (table.predicted_noise(output, z, i) - noise)
        z = revise(i, table.denoise_step(z, noise, i), noise)
        on_step(i, z)
    return z
