"""Where on a schedule the steps of an inversion lie."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from dehaze.inversion.schedule import ScheduleError
from dehaze.registry import Registry

# Highest timestep of the noisy-end spacing, over the number of training timesteps. It is below 1
# because a schedule of zero terminal signal ends with a_N = 0, where a DDIM step cannot be undone.
_NOISY_END_TOP = 0.99
_NOISY_END_POWER = 1.7


def diffusers_spacing(name: str, train_timesteps: int, offset: int, steps: int) -> list[int]:
    """The timesteps that diffusers' DDIMScheduler places under ``timestep_spacing=name``."""
    # Imported here, since the bundled model's spacing, noisy-end, does not need the library.
    from diffusers import DDIMScheduler

    ddim = DDIMScheduler(
        num_train_timesteps=train_timesteps, timestep_spacing=name, steps_offset=offset
    )
    ddim.set_timesteps(steps)
    return sorted(int(timestep) for timestep in ddim.timesteps)


def noisy_end(train_timesteps: int, offset: int, steps: int) -> list[int]:
    """tau_i proportional to 1 - (1 - i / N)^1.7: dense where the noise is strong.

    The offset has no effect.

    Raises:
        ScheduleError: there are more steps than timesteps below the topmost.
    """
    top = round(_NOISY_END_TOP * train_timesteps)
    if steps > top:
        raise ScheduleError(f"the noisy-end spacing has room for {top} steps, not {steps}")
    timesteps = [
        round(top * (1.0 - (1.0 - i / steps) ** _NOISY_END_POWER)) for i in range(1, steps + 1)
    ]
    # With many steps neighbours at the noisy end would round to the same timestep.
    for position in range(steps - 2, -1, -1):
        timesteps[position] = min(timesteps[position], timesteps[position + 1] - 1)
    if timesteps[0] < 0:
        timesteps = list(range(steps))
    return timesteps


SPACINGS: Registry[Callable[[int, int, int], list[int]]] = Registry("spacing")
"""Each takes the number of training timesteps, the scheduler's offset and N, and returns tau."""

for _name in ("leading", "trailing", "linspace"):
    SPACINGS.register(_name, partial(diffusers_spacing, _name))
SPACINGS.register("noisy-end", noisy_end)
