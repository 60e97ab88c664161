"""DDIM schedules of Stable Diffusion's betas, for tests."""

from __future__ import annotations

from diffusers import DDIMScheduler

from dehaze.inversion import DDIMTable


def table_of(steps: int, spacing: str = "leading", *, zero_terminal: bool = False) -> DDIMTable:
    """The table of so many steps, with or without a zero terminal signal."""
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
        rescale_betas_zero_snr=zero_terminal,
    )
    return DDIMTable.from_scheduler(scheduler, steps, spacing)
