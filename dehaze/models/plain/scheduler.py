"""The noise schedule of a DDIM scheduler, as ``dehaze.inversion.ddim`` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dehaze.models.plain.settings import Settings, differing

_FREE = frozenset(
    {
        "num_train_timesteps", "beta_start", "beta_end", "prediction_type",
        "rescale_betas_zero_snr", "set_alpha_to_one", "steps_offset", "timestep_spacing",
    }
)  # fmt: skip
# Of clipping and thresholding, which are off.
_UNUSED = frozenset({"clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value"})
_FIXED: Mapping[str, Any] = {
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "thresholding": False,
    "trained_betas": None,
}


def why_not(config: Mapping[str, Any]) -> str | None:
    """The first setting of a DDIMScheduler that is not implemented here, or None."""
    return differing(config, _FREE, _FIXED, _UNUSED)


class DDIMScheduler:
    """The process of a DDIMScheduler whose settings are all implemented, see ``why_not``.

    Args:
        config: of a DDIMScheduler, whole.

    Attributes:
        alphas_cumprod: float32 (T,), the share of the signal's variance at each timestep.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = Settings(config)
        first, last = (float(config[name]) ** 0.5 for name in ("beta_start", "beta_end"))
        timesteps = int(config["num_train_timesteps"])
        betas = torch.linspace(first, last, timesteps, dtype=torch.float32) ** 2
        if config["rescale_betas_zero_snr"]:
            betas = _without_signal_at_the_end(betas)
        self.alphas_cumprod = torch.cumprod(1.0 - betas, dim=0)


def _without_signal_at_the_end(betas: Tensor) -> Tensor:
    """Betas, (T,), whose last timestep keeps no signal.

    Source: Lin et al., arXiv 2305.08891, algorithm 1.
    """
    roots = torch.cumprod(1.0 - betas, dim=0).sqrt()
    first, last = roots[0].clone(), roots[-1].clone()
    roots = (roots - last) * (first / (first - last))
    shares = roots**2
    return 1.0 - torch.cat([shares[:1], shares[1:] / shares[:-1]])
