"""DDIM schedules of Stable Diffusion's betas, for tests."""

from __future__ import annotations

from typing import Any

from diffusers import DDIMScheduler

from dehaze.inversion import DDIMTable


def scheduler_of(**settings: Any) -> DDIMScheduler:
    """Stable Diffusion's scheduler, but for the settings given."""
    defaults: dict[str, Any] = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "steps_offset": 1,
        "set_alpha_to_one": False,
    }
    return DDIMScheduler(**{**defaults, **settings})


def table_of(steps: int, spacing: str = "leading", **settings: Any) -> DDIMTable:
    """The table of so many steps of ``scheduler_of`` these settings."""
    return DDIMTable.from_scheduler(scheduler_of(**settings), steps, spacing)
