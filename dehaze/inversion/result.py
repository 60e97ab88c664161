"""What an inversion is: its trajectory, the noise of every step, and how it fared."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dehaze.inversion.schedule import DDIMTable


class NoiseNetwork(Protocol):
    """A network under one prompt, as an inversion sees it: ``dehaze.network.PromptedNetwork``."""

    def __call__(self, latents: Tensor, i: int, index: Tensor) -> Tensor:
        """eps(z, i) of some samples of a batch.

        Args:
            latents: z, (b, C, H, W).
            i: the step.
            index: int64 (b,), the samples' positions in the batch. A criterion that follows two
                paths has a batch of 2B: position B + b is the second path of sample b.
        """


BlendedNoise = Callable[[Tensor, int, Tensor], Tensor]
"""(latents, step i, the noise that the inversion found there) -> the noise to denoise with."""

AfterStep = Callable[[int, Tensor, Tensor], Tensor]
"""(step i, z_{i-1} that it made, the noise that it took) -> the z_{i-1} to go on with."""

_FORMAT = "dehaze-inversion-2"


@dataclass(frozen=True)
class InversionTrace:
    """How the solver fared at each of n steps, for each of B samples.

    Attributes:
        residuals: (n, K, B), the intra-path residual at each iteration, NaN where not measured.
        inter: (n, K, B), the inter-path residual likewise; NaN where one path was followed.
        bounds: (n, K, B), Banach's bound of the relative error after each iteration; infinite
            where it says nothing, NaN where not measured.
        iterations: int64 (n, B).
        nfe: int64 (n, B), network evaluations; a guided evaluation counts twice.
        contraction: (n, B), estimate of the contraction constant; NaN where unknown. 1 or above:
            not contractive here.
        converged: bool (n, B); a method that is exact by construction has converged at every step.
    """

    residuals: Tensor
    inter: Tensor
    bounds: Tensor
    iterations: Tensor
    nfe: Tensor
    contraction: Tensor
    converged: Tensor

    @property
    def last_residuals(self) -> Tensor:
        """(n, B), the last residual measured at each step; NaN where none was."""
        known = ~self.residuals.isnan()
        last = (known * torch.arange(1, known.shape[1] + 1)[None, :, None]).amax(1) - 1
        values = self.residuals.gather(1, last.clamp(min=0)[:, None])[:, 0]
        return torch.where(last >= 0, values, torch.nan)

    @property
    def worst_residual(self) -> float:
        """The largest last residual of any step and sample; NaN when none was measured."""
        known = self.last_residuals[~self.last_residuals.isnan()]
        return float(known.max()) if known.numel() else float("nan")

    def sample(self, b: int) -> InversionTrace:
        """The trace of sample b alone."""
        return InversionTrace(**{name: each[..., b : b + 1] for name, each in vars(self).items()})

    def to_dict(self) -> dict[str, Any]:
        """The trace as plain lists, ready for JSON; None for what is unknown or infinite."""

        def plain(value: Any) -> Any:
            if isinstance(value, list):
                return [plain(item) for item in value]
            return None if isinstance(value, float) and not math.isfinite(value) else value

        return {name: plain(tensor.tolist()) for name, tensor in vars(self).items()}


@dataclass(frozen=True)
class InversionResult:
    """An inverted batch: from here it can be reconstructed exactly, or edited any number of times.

    Attributes:
        trajectory: float32 (n + 1, B, C, H, W): z_0 .. z_n. n < N after a partial inversion.
        noise: float32 (n, B, C, H, W): ``noise[i - 1]`` leads from z_{i-1} to z_i, and back.
        table: the schedule of all N steps.
        trace: how the solver fared.
        attention: what the network's attention layers computed on the way, by name, for
            Prompt-to-Prompt control and for maps; empty when it was not recorded.
        method: name of the inversion method, which knows the way back; see
            ``dehaze.inversion.methods``.
        companion: ``trajectory`` and ``noise`` of a second latent, shaped as those of the first;
            empty where the method has one latent.
        adjustment: (B,), how far prompt-aware adjustment moved z_0 before it was inverted: the norm
            of the change over that of z_0; None where nothing was moved.
    """

    trajectory: Tensor
    noise: Tensor
    table: DDIMTable
    trace: InversionTrace
    attention: dict[str, Tensor] = field(default_factory=dict)
    method: str = "ddim"
    companion: dict[str, Tensor] = field(default_factory=dict)
    adjustment: Tensor | None = None

    @property
    def latents(self) -> Tensor:
        """z_n, (B, C, H, W): where denoising starts."""
        return self.trajectory[-1]

    @property
    def steps(self) -> int:
        """n, the number of steps that were inverted."""
        return self.noise.shape[0]

    def sample(self, b: int) -> InversionResult:
        """Sample b alone, a batch of one; nothing is copied."""
        only = slice(b, b + 1)
        return replace(
            self,
            trajectory=self.trajectory[:, only],
            noise=self.noise[:, only],
            trace=self.trace.sample(b),
            attention={name: rows[only] for name, rows in self.attention.items()},
            companion={name: each[:, only] for name, each in self.companion.items()},
            adjustment=None if self.adjustment is None else self.adjustment[only],
        )

    def save(self, path: str | Path) -> None:
        """Writes everything to one safetensors file."""
        Path(path).write_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        """What ``save`` writes."""
        tensors = {"trajectory": self.trajectory, "noise": self.noise}
        tensors.update({f"trace.{name}": value for name, value in vars(self.trace).items()})
        tensors.update({f"attention.{name}": value for name, value in self.attention.items()})
        tensors.update({f"companion.{name}": value for name, value in self.companion.items()})
        if self.adjustment is not None:
            tensors["adjustment"] = self.adjustment
        on_cpu = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        table = json.dumps(vars(self.table))
        return save(on_cpu, {"format": _FORMAT, "table": table, "method": self.method})

    @classmethod
    def load(cls, path: str | Path) -> InversionResult:
        """Reads what ``save`` wrote.

        Raises:
            ValueError: the file is not a saved inversion.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from error
        if metadata.get("format") != _FORMAT:
            raise ValueError(
                f"{path} is not a saved inversion: write one with InversionResult.save"
            )
        table = json.loads(metadata["table"])

        def under(prefix: str) -> dict[str, Tensor]:
            return {
                name.removeprefix(prefix): value
                for name, value in tensors.items()
                if name.startswith(prefix)
            }

        return cls(
            tensors["trajectory"],
            tensors["noise"],
            DDIMTable(
                tuple(table["timesteps"]), tuple(table["alphas"]), str(table["prediction_type"])
            ),
            InversionTrace(**under("trace.")),
            under("attention."),
            metadata["method"],
            under("companion."),
            tensors.get("adjustment"),
        )
