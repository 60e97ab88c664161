"""Strength: how much of a change is made, as one number or a map over the photo."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dehaze import ranges
from dehaze.inversion import InversionResult
from dehaze.recovery.guided_filter import resize

Array = NDArray[np.float32]


def check_strength(strength: float | Array) -> None:
    """Raises ``RangeError`` where a strength, or a value of a map, is out of range."""
    weights = np.asarray(strength)
    if weights.dtype.kind not in "iuf":
        raise ranges.RangeError(
            f"strength is {strength!r:.80}: it must be a number, or a map of numbers"
        )
    for extreme in (weights.min(initial=0.0), weights.max(initial=0.0)):
        ranges.STRENGTH.check(float(extreme))


def latent_strength(
    strength: float | Array, photo: Array | None, inversion: InversionResult
) -> float | Tensor:
    """A strength at the latents' size: the number itself, or a map (1, 1, h, w).

    Args:
        strength: w, one number, or a map (H, W).
        photo: float32 (H, W, 3), that a map is of.
        inversion: of the photo.

    Raises:
        ValueError: the map is not of the photo's size, or there is no photo.
        RangeError: a number is outside of ``dehaze.ranges.STRENGTH``.
    """
    check_strength(strength)
    if np.ndim(strength) == 0:
        return float(strength)
    if photo is None:
        raise ValueError("a strength map needs the photo that it is a map of")
    weights = np.asarray(strength, dtype=np.float32)
    if weights.shape != photo.shape[:2]:
        raise ValueError(f"strength is {weights.shape} and the photo {photo.shape[:2]}")
    small = resize(weights, inversion.latent_size)
    return torch.from_numpy(small)[None, None].to(inversion.latents)


def latent_strengths(
    strengths: Sequence[float | Array], photos: Sequence[Array], inversion: InversionResult
) -> float | Tensor:
    """The strengths of a batch: one number if all are equal, else maps (B, 1, h, w).

    Args:
        strengths: of each photo, see ``latent_strength``.
        photos: float32 (H, W, 3) each.
        inversion: of all of them.
    """
    weights = [
        latent_strength(strength, photo, inversion)
        for strength, photo in zip(strengths, photos, strict=True)
    ]
    numbers = [weight for weight in weights if not isinstance(weight, Tensor)]
    if numbers == weights[:1] * len(weights):
        return numbers[0]
    whole = inversion.latents[:1, :1]
    return torch.cat([torch.as_tensor(weight).to(whole).expand_as(whole) for weight in weights])
