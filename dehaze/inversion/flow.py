"""The schedule of a rectified flow as one table, as Stable Diffusion 3 and FLUX have it.

A rectified flow mixes a picture x with noise n along a line: z = (1 - sigma) x + sigma n, with
sigma from 0, the picture, to 1, noise. The network predicts the velocity v = n - x, and an Euler
step is

    z_i = z_{i-1} + (sigma_i - sigma_{i-1}) v(z_i, sigma_i),

implicit as DDIM's is: A_i = 1, B_i = sigma_i - sigma_{i-1}, and z_i = x0hat + sigma_i v.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from dehaze.inversion.schedule import Process, ScheduleError, StepTable, other_settings

FLOW_SCHEDULER = "FlowMatchEulerDiscreteScheduler"

# Settings that change Euler's steps or the shifted even sigmas, and their values that do not.
_REFUSED: Mapping[str, tuple[Any, ...]] = {
    "invert_sigmas": (False, None),
    "shift_terminal": (None, False, 0),
    "stochastic_sampling": (False, None),
    "use_beta_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_karras_sigmas": (False, None),
}
_READ = frozenset(
    {
        "base_image_seq_len", "base_shift", "max_image_seq_len", "max_shift",
        "num_train_timesteps", "shift", "time_shift_type", "use_dynamic_shifting",
    }
)  # fmt: skip


@dataclass(frozen=True)
class FlowTable(StepTable):
    """Timesteps and sigmas of N Euler steps of a rectified flow.

    Attributes:
        timesteps: tau_1 .. tau_N, ascending, in (0, 1000]: what the network is told of sigma_i.
        sigmas: sigma_0 .. sigma_N, in [0, 1], ascending; sigma_0 is 0.

    Source: Liu, Gong and Liu, "Flow Straight and Fast", arXiv 2209.03003; Esser et al., "Scaling
    Rectified Flow Transformers", arXiv 2403.03206.
    """

    process: ClassVar[Process] = "flow"

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...]

    @classmethod
    def from_scheduler(
        cls,
        scheduler: Any,
        steps: int,
        spacing: str | None = None,
        *,
        positions: int,
        even: bool = False,
    ) -> FlowTable:
        """Builds the table as diffusers' pipelines set their scheduler.

        With s for a sigma before the shift, a fixed shift gives r s / (1 + (r - 1) s). A dynamic
        one, of the picture's size, gives e^m / (e^m + 1 / s - 1), with m linear in the number of
        positions.

        Args:
            scheduler: FlowMatchEulerDiscreteScheduler.
            steps: N, at least 1.
            spacing: must be None; spacings are of DDIM's timesteps.
            positions: of the picture in the network, their number; a dynamic shift depends on it.
            even: whether the sigmas before the shift are 1, 1 - 1 / N .. 1 / N, as FLUX's pipeline
                has them, or reach from the scheduler's largest to its smallest, as Stable Diffusion
                3's does.

        Raises:
            ScheduleError: a setting is one that is not read, see ``check_flow_scheduler``; there
                are more steps than timesteps, or a spacing is given.
        """
        check_flow_scheduler(scheduler)
        config = scheduler.config
        if spacing is not None:
            raise ScheduleError(
                f"the spacing {spacing!r} is of DDIM's timesteps, and this model is of flow "
                "matching, which places its own: leave it out"
            )
        if not 1 <= steps <= int(config.num_train_timesteps):
            raise ScheduleError(f"{steps} steps: there must be 1 to {config.num_train_timesteps}")
        # On a copy: setting the timesteps changes the scheduler.
        own = copy.deepcopy(scheduler)
        shift = {"mu": dynamic_shift(config, positions)} if config.use_dynamic_shifting else {}
        sigmas = np.linspace(1.0, 1.0 / steps, steps) if even else None
        own.set_timesteps(steps, sigmas=sigmas, **shift)
        return cls(
            tuple(float(timestep) for timestep in own.timesteps.flip(0)),
            tuple(float(sigma) for sigma in own.sigmas.flip(0)),
        )

    def __post_init__(self) -> None:
        if any(later <= earlier for earlier, later in pairwise(self.sigmas)):
            raise ScheduleError(f"sigmas must ascend: {list(self.sigmas)}")

    @property
    def steps(self) -> int:
        """N."""
        return len(self.timesteps)

    @property
    def levels(self) -> int:
        """How many sigmas there are: N + 1."""
        return len(self.sigmas)

    def timestep(self, i: int) -> float:
        """tau_i, the timestep at which step i evaluates the network, in both directions."""
        return self.timesteps[i - 1]

    def told(self, i: int, sigma: float) -> FlowTable:
        """The same table, but the network is told another sigma, in [0, 1], at step i."""
        timesteps = list(self.timesteps)
        timesteps[i - 1] = sigma * self.timesteps[-1] / self.sigmas[-1]
        return replace(self, timesteps=tuple(timesteps))

    def signal(self, i: int) -> float:
        """1 - sigma_i."""
        return 1.0 - self.sigmas[i]

    def sigma(self, i: int) -> float:
        """sigma_i."""
        return self.sigmas[i]

    def picture_scale(self, i: int) -> float:
        """1: z_i = x0hat + sigma_i v."""
        return 1.0

    def predicted_noise(self, output: Tensor, latent: Tensor, i: int) -> Tensor:
        """The velocity, which the network predicts itself."""
        return output


def dynamic_shift(config: Mapping[str, Any], positions: int) -> float:
    """m of a dynamic shift, linear in the number of positions.

    Source: the FLUX and Stable Diffusion 3 pipelines of diffusers.
    """
    fewest, most = int(config["base_image_seq_len"]), int(config["max_image_seq_len"])
    least, greatest = float(config["base_shift"]), float(config["max_shift"])
    return least + (greatest - least) / (most - fewest) * (positions - fewest)


def check_flow_scheduler(scheduler: Any) -> None:
    """Refuses a scheduler of another class, and settings that make other steps or other sigmas.

    Raises:
        ScheduleError: the message names the scheduler, the setting and what to do.
    """
    check_flow_scheduler_class(type(scheduler).__name__)
    for setting, value in scheduler.config.items():
        if setting in _REFUSED and value not in _REFUSED[setting]:
            raise ScheduleError(
                f"the scheduler {FLOW_SCHEDULER} has {setting}={value}: its steps cannot be "
                "inverted; change it in scheduler_config.json if the model works without"
            )


def check_flow_scheduler_class(name: str) -> None:
    """Refuses a scheduler by its class's name, before it is made.

    Raises:
        ScheduleError: the message names the one class that is read.
    """
    if name != FLOW_SCHEDULER:
        raise ScheduleError(
            f"the scheduler {name} is of another process than flow matching: there is "
            f"{FLOW_SCHEDULER}"
        )


def ignored_flow_settings(scheduler: Any) -> dict[str, Any]:
    """The settings of a flow's scheduler that a table has no use for."""
    return other_settings(scheduler, {*_READ, *_REFUSED})
