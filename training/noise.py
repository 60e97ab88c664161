"""The noise of a picture in the first stage, before a model can invert: a Gaussian's closed form.

A diffusion model of a Gaussian N(mu, S) is inverted in closed form: its probability flow carries x
to the whitened S^(-1/2) (x - mu). Here mu and S are the mean and the covariance of the latents'
channels. The second stage uses the noise that the model's own inversion finds.

Source: Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations",
arXiv 2011.13456, section 4.3, for a Gaussian's score -S^-1 (x - mu).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# Added to each variance, in squared latent units. Without it, directions of small variance would be
# amplified so much that the iterations of an inversion step would diverge.
FLOOR = 0.3


@dataclass(frozen=True)
class GaussianNoise:
    """The closed-form inversion.

    Attributes:
        mean: mu, float32 (C,).
        whitening: (S + floor)^(-1/2), float32 (C, C).
    """

    mean: Tensor
    whitening: Tensor

    @classmethod
    def of(cls, latents: Tensor) -> GaussianNoise:
        """Fits mean and covariance to latents (B, C, h, w)."""
        rows = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1]).double()
        mean = rows.mean(0)
        covariance = (rows - mean).T @ (rows - mean) / len(rows)
        values, vectors = torch.linalg.eigh(covariance)
        scale = (values.clamp(min=0.0) + FLOOR).rsqrt()
        return cls(mean.float(), ((vectors * scale) @ vectors.T).float())

    def __call__(self, latents: Tensor) -> Tensor:
        """z, (B, C, h, w), of latents (B, C, h, w)."""
        centred = latents - self.mean[:, None, None]
        return torch.einsum("dc,bchw->bdhw", self.whitening, centred)

    @cached_property
    def colouring(self) -> Tensor:
        """(S + floor)^(1/2), float32 (C, C)."""
        return torch.linalg.inv(self.whitening)

    def unwhitened(self, noise: Tensor) -> Tensor:
        """Errors of the noise (B, C, h, w), brought to latent units by (S + floor)^(1/2)."""
        return torch.einsum("dc,bchw->bdhw", self.colouring, noise)

    def save(self, path: Path) -> None:
        np.savez(path, mean=self.mean.cpu().numpy(), whitening=self.whitening.cpu().numpy())

    @classmethod
    def load(cls, path: Path, device: str = "cpu") -> GaussianNoise:
        with np.load(path) as stored:
            mean, whitening = (torch.from_numpy(stored[name]) for name in ("mean", "whitening"))
            return cls(mean.to(device), whitening.to(device))
