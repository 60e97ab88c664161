"""A schedule as one table: every coefficient of a step, forwards and backwards.

The table of DDIM is in ``dehaze.inversion.ddim``, that of a rectified flow in
``dehaze.inversion.flow``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from dehaze.errors import DehazeError


class ScheduleError(DehazeError, ValueError):
    """The scheduler cannot be inverted with these settings."""


Process = Literal["ddim", "flow"]


class StepTable(ABC):
    """Timesteps and coefficients of N implicit steps, z_0 the picture and z_N noise.

    The network's prediction p at z_i stands for a picture x0hat by z_i = c_i x0hat + s_i p. A step
    keeps both, so that, with A_i = c_i / c_{i-1} and B_i = s_i - A_i s_{i-1},

        z_i = A_i z_{i-1} + B_i p(z_i, i).

    For DDIM p is the noise, and c_i = sqrt(a_i). For a rectified flow p is the velocity, and
    c_i = 1. Everything that inverts or denoises works with these coefficients alone. A prediction
    that is called noise, as in ``InversionResult.noise``, is p.

    Attributes:
        process: what the steps are of: ``ddim`` or ``flow``.
    """

    process: ClassVar[Process]

    @property
    @abstractmethod
    def steps(self) -> int:
        """N."""

    @property
    @abstractmethod
    def levels(self) -> int:
        """N + 1, the number of noise levels, z_0's among them."""

    @abstractmethod
    def timestep(self, i: int) -> float:
        """tau_i, the timestep at which step i evaluates the network, in both directions."""

    @abstractmethod
    def signal(self, i: int) -> float:
        """The weight of the picture in z_i, whose noise has the weight ``sigma``."""

    @abstractmethod
    def sigma(self, i: int) -> float:
        """s_i, the weight of the noise in z_i."""

    @abstractmethod
    def picture_scale(self, i: int) -> float:
        """c_i, what the predicted picture is multiplied by in z_i = c_i x0hat + s_i p."""

    @abstractmethod
    def predicted_noise(self, output: Tensor, latent: Tensor, i: int) -> Tensor:
        """The prediction p that the network's output at z_i stands for."""

    def coefficients(self, i: int, to: int | None = None) -> tuple[float, float]:
        """(A_i, B_i) of step i, 1 <= i <= N, between z_i and z_to; ``to`` is i - 1 when None."""
        other = i - 1 if to is None else to
        A = self.picture_scale(i) / self.picture_scale(other)
        return A, self.sigma(i) - A * self.sigma(other)

    def inverse_step(self, previous: Tensor, noise: Tensor, i: int) -> Tensor:
        """z_i = A_i z_{i-1} + B_i p, with p = p(z_i, i): implicit in z_i."""
        A, B = self.coefficients(i)
        return A * previous + B * noise

    def denoise_step(self, latent: Tensor, noise: Tensor, i: int, to: int | None = None) -> Tensor:
        """z_{i-1} = (z_i - B_i p(z_i, i)) / A_i; with ``to``, z_to of a lower step at once."""
        A, B = self.coefficients(i, to)
        return (latent - B * noise) / A

    def noise_of_step(self, latent: Tensor, previous: Tensor, i: int) -> Tensor:
        """The p with which step i leads from z_{i-1} to z_i, and back without error."""
        A, B = self.coefficients(i)
        if abs(B) < 1e-12:
            return torch.zeros_like(latent)
        return (latent - A * previous) / B

    def predicted_picture(self, latent: Tensor, noise: Tensor, i: int) -> Tensor:
        """x0hat(z_i) = (z_i - s_i p_i) / c_i."""
        return (latent - self.sigma(i) * noise) / self.picture_scale(i)

    def noised(self, clean: Tensor, noise: Tensor, i: int) -> Tensor:
        """z_0 with the noise of step i, by the weights ``signal`` and ``sigma``."""
        return self.signal(i) * clean + self.sigma(i) * noise


def other_settings(scheduler: Any, read: Collection[str]) -> dict[str, Any]:
    """The settings of a scheduler's configuration besides those that are read."""
    return {
        name: value
        for name, value in scheduler.config.items()
        if name not in read and not name.startswith("_")
    }
