"""The schedule of DDIM as one table, read from a scheduler of diffusers.

Notation: tau_1 < ... < tau_N are the timesteps, a_i = alphas_cumprod[tau_i], a_0 the scheduler's
final alpha, s_i = sqrt(1 - a_i), A_i = sqrt(a_i / a_{i-1}), B_i = s_i - A_i s_{i-1}.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor

from dehaze.inversion.schedule import Process, ScheduleError, StepTable, other_settings
from dehaze.inversion.spacings import SPACINGS

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")

# Schedulers of the process z_t = sqrt(a_t) z_0 + sqrt(1 - a_t) noise; only their steps differ.
READABLE_SCHEDULERS = (
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "UniPCMultistepScheduler",
)
# Settings that change the process, and their values that do not.
_PROCESS_SETTINGS: Mapping[str, tuple[Any, ...]] = {
    "clip_sample": (False,),
    "thresholding": (False,),
    "use_flow_sigmas": (False,),
    "timestep_type": ("discrete",),
    "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
}
# Settings that place the scheduler's steps in a way that is not supported, and values that do not.
_PLACING_SETTINGS: Mapping[str, tuple[Any, ...]] = {
    "use_karras_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "use_lu_lambdas": (False, None),
    "lambda_min_clipped": (-math.inf, "-Infinity"),
}
_READ_SETTINGS = frozenset(
    {
        "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas",
        "rescale_betas_zero_snr", "prediction_type", "timestep_spacing", "steps_offset",
        "set_alpha_to_one", "final_sigmas_type",
        # Settings of clipping and thresholding, which are refused.
        "clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value",
    }
)  # fmt: skip


@dataclass(frozen=True)
class DDIMTable(StepTable):
    """Timesteps and coefficients of N DDIM steps (eta = 0).

    Attributes:
        timesteps: tau_1 .. tau_N, ascending; ``timesteps[i - 1]`` is tau_i.
        alphas: a_0 .. a_N, in (0, 1], not increasing.
        prediction_type: what the network predicts: epsilon, v_prediction or sample.

    Source: Song, Meng and Ermon, "Denoising Diffusion Implicit Models", arXiv 2010.02502, eq. 12.
    """

    process: ClassVar[Process] = "ddim"

    timesteps: tuple[int, ...]
    alphas: tuple[float, ...]
    prediction_type: str

    @classmethod
    def from_scheduler(cls, scheduler: Any, steps: int, spacing: str | None = None) -> DDIMTable:
        """Builds the table from any diffusers scheduler of the same process.

        tau_{i-1} is the timestep before tau_i in the list, as in EulerDiscreteScheduler.
        DDIMScheduler takes tau_i - T // N instead. In ``linspace``, and in ``trailing`` where N
        does not divide T, that is not the timestep at which the network is evaluated next.

        Args:
            scheduler: one of ``READABLE_SCHEDULERS``.
            steps: N, at least 1.
            spacing: one of ``SPACINGS``; None takes the scheduler's own. ``noisy-end`` places
                tau_i proportionally to 1 - (1 - i / N)^1.7, densely where the noise is strong.

        Raises:
            ScheduleError: the scheduler is of another process, see ``check_scheduler``, or places
                its steps in a way that is not read; a setting is unknown, there are more steps
                than timesteps, or the last step carries no signal (a_N = 0).
        """
        check_scheduler(scheduler)
        config = scheduler.config
        train_timesteps = int(config.num_train_timesteps)
        if not 1 <= steps <= train_timesteps:
            raise ScheduleError(f"{steps} steps: there must be 1 to {train_timesteps}")
        if spacing is None:
            _refuse(
                scheduler,
                _PLACING_SETTINGS,
                f"it cannot be followed; choose a spacing: {', '.join(SPACINGS.names())}",
            )
            # DPMSolverSinglestepScheduler has no such setting and places its steps so.
            spacing = str(config.get("timestep_spacing", "linspace"))
        offset = int(config.get("steps_offset", 0))
        timesteps = SPACINGS.get(spacing)(train_timesteps, offset, steps)
        return cls.from_timesteps(scheduler, timesteps)

    @classmethod
    def from_timesteps(cls, scheduler: Any, timesteps: Sequence[int]) -> DDIMTable:
        """Builds the table from a scheduler and explicit ascending timesteps.

        Raises:
            ScheduleError: as ``from_scheduler``, or timesteps that do not ascend or are outside the
                training range.
        """
        check_scheduler(scheduler)
        cumulative = scheduler.alphas_cumprod.double()
        if any(later <= earlier for earlier, later in pairwise(timesteps)):
            raise ScheduleError(f"timesteps must ascend: {list(timesteps)}")
        if timesteps[0] < 0 or timesteps[-1] >= len(cumulative):
            raise ScheduleError(
                f"timesteps {list(timesteps)} are outside 0 to {len(cumulative) - 1}"
            )
        last = float(cumulative[0]) if _ends_with_noise(scheduler.config) else 1.0
        alphas = (last, *(float(cumulative[t]) for t in timesteps))
        # Schedulers store alphas_cumprod in float32; rescaling to zero signal leaves about 1e-17.
        if alphas[-1] < 1e-7:
            raise ScheduleError(
                f"timestep {timesteps[-1]} carries no signal (zero terminal SNR) and cannot be "
                "undone: choose the spacing 'leading' or 'noisy-end'"
            )
        return cls(tuple(timesteps), alphas, str(scheduler.config.prediction_type))

    @property
    def steps(self) -> int:
        """N."""
        return len(self.timesteps)

    @property
    def levels(self) -> int:
        """How many alphas there are: N + 1."""
        return len(self.alphas)

    def timestep(self, i: int) -> int:
        """tau_i, the timestep at which step i evaluates the network, in both directions."""
        return self.timesteps[i - 1]

    # The root of a quotient; the base class's quotient of two roots would round once more.
    def coefficients(self, i: int, to: int | None = None) -> tuple[float, float]:
        """(A_i, B_i) of step i, 1 <= i <= N, between z_i and z_to; ``to`` is i - 1 when None."""
        other = i - 1 if to is None else to
        A = math.sqrt(self.alphas[i] / self.alphas[other])
        return A, self.sigma(i) - A * self.sigma(other)

    def signal(self, i: int) -> float:
        """sqrt(a_i), which is the predicted picture's scale as well."""
        return math.sqrt(self.alphas[i])

    def picture_scale(self, i: int) -> float:
        """c_i = sqrt(a_i)."""
        return self.signal(i)

    def sigma(self, i: int) -> float:
        """s_i = sqrt(1 - a_i)."""
        return math.sqrt(1.0 - self.alphas[i])

    def predicted_noise(self, output: Tensor, latent: Tensor, i: int) -> Tensor:
        """The noise eps that the network's output at z_i stands for.

        v_prediction: eps = sqrt(a_i) v + s_i z; sample: eps = (z - sqrt(a_i) x_0) / s_i.
        """
        if self.prediction_type == "epsilon":
            return output
        root = math.sqrt(self.alphas[i])
        if self.prediction_type == "v_prediction":
            return root * output + self.sigma(i) * latent
        return (latent - root * output) / self.sigma(i)


def check_scheduler(scheduler: Any) -> None:
    """Refuses a scheduler whose class or settings are not of DDIM's process.

    Raises:
        ScheduleError: the message names the scheduler, the setting and what to do.
    """
    check_scheduler_class(type(scheduler).__name__)
    _refuse(
        scheduler,
        _PROCESS_SETTINGS,
        "DDIM cannot invert that; change it in scheduler_config.json if the model works without",
    )
    prediction_type = scheduler.config.prediction_type
    if prediction_type not in PREDICTION_TYPES:
        raise ScheduleError(
            f"prediction type {prediction_type!r} is unknown: {', '.join(PREDICTION_TYPES)}"
        )
    _check_values(scheduler)


def _check_values(scheduler: Any) -> None:
    """Refuses values of settings that no schedule can have."""
    config, levels = scheduler.config, scheduler.alphas_cumprod.double()
    total, offset = config.num_train_timesteps, config.get("steps_offset", 0)
    choices: dict[str, Sequence[Any]] = {
        "timestep_spacing": SPACINGS.names(),
        "set_alpha_to_one": [True, False],
        "rescale_betas_zero_snr": [True, False],
        "final_sigmas_type": ["zero", "sigma_min"],
    }
    for setting, known in choices.items():
        value = config.get(setting, known[0])
        if value not in known:
            raise ScheduleError(f"{setting} is {value!r}: it must be {', '.join(map(str, known))}")
    if total < 1 or len(levels) != total:
        raise ScheduleError(
            f"num_train_timesteps is {total}, and the schedule has {len(levels)} betas"
        )
    if type(offset) is not int or not 0 <= offset < total:
        raise ScheduleError(f"steps_offset is {offset!r}: it must be 0 to {total - 1}")
    # Only the last step may carry no signal.
    sound = (levels[:-1] > 0).all() and (levels >= 0).all() and (levels <= 1).all()
    if not bool(sound and (levels.diff() <= 0).all()):
        raise ScheduleError("the betas, from beta_start to beta_end, must lie between 0 and 1")


def check_scheduler_class(name: str) -> None:
    """Refuses the name of a scheduler's class that is not one of ``READABLE_SCHEDULERS``.

    Raises:
        ScheduleError: the message lists those that there are.
    """
    if name not in READABLE_SCHEDULERS:
        raise ScheduleError(
            f"the scheduler {name} is of another process than DDIM's: there are "
            f"{', '.join(READABLE_SCHEDULERS)}"
        )


def ignored_settings(scheduler: Any) -> dict[str, Any]:
    """The scheduler's settings that a DDIM table does not use, such as a solver's order."""
    return other_settings(scheduler, {*_READ_SETTINGS, *_PROCESS_SETTINGS, *_PLACING_SETTINGS})


def _refuse(scheduler: Any, harmless: Mapping[str, tuple[Any, ...]], cure: str) -> None:
    # A configuration may hold settings of other classes, which this class ignores.
    own = inspect.signature(type(scheduler).__init__).parameters
    for setting, values in harmless.items():
        value = scheduler.config.get(setting, values[0])
        if setting in own and value not in values:
            raise ScheduleError(
                f"the scheduler {type(scheduler).__name__} has {setting}={value}: {cure}"
            )


def _ends_with_noise(config: Mapping[str, Any]) -> bool:
    """Whether the last step back ends at the first timestep's noise rather than at none."""
    if "set_alpha_to_one" in config:
        return not config["set_alpha_to_one"]
    return config.get("final_sigmas_type", "zero") == "sigma_min"
