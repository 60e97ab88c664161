from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMInverseScheduler, EulerDiscreteScheduler, PNDMScheduler
from hypothesis import given
from hypothesis import strategies as st
from schedules import scheduler_of

from dehaze.inversion.ddim import PREDICTION_TYPES, READABLE_SCHEDULERS, DDIMTable, ignored_settings
from dehaze.inversion.schedule import ScheduleError
from dehaze.inversion.spacings import SPACINGS

BETAS: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


@pytest.mark.parametrize("spacing", SPACINGS.names())
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("steps", [4, 7, 10, 50])
@pytest.mark.parametrize("set_alpha_to_one", [True, False])
def test_a_step_with_frozen_noise_is_undone(
    spacing: str, prediction_type: str, steps: int, set_alpha_to_one: bool
) -> None:
    table = DDIMTable.from_scheduler(
        scheduler_of(prediction_type=prediction_type, set_alpha_to_one=set_alpha_to_one),
        steps,
        spacing,
    )
    generator = torch.Generator().manual_seed(steps)
    z = torch.randn(1, 4, 3, 3, dtype=torch.float64, generator=generator)
    noise = torch.randn(1, 4, 3, 3, dtype=torch.float64, generator=generator)
    assert table.steps == steps
    for i in range(1, steps + 1):
        inverted = table.inverse_step(z, noise, i)
        assert (table.denoise_step(inverted, noise, i) - z).abs().max() < 1e-12
        derived = table.noise_of_step(inverted, z, i)
        assert (table.denoise_step(inverted, derived, i) - z).abs().max() < 1e-12


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [7, 20])
@pytest.mark.parametrize("set_alpha_to_one", [True, False])
def test_denoising_agrees_with_the_scheduler_of_diffusers(
    prediction_type: str, spacing: str, steps: int, set_alpha_to_one: bool
) -> None:
    """Holds where diffusers' own step is right: where its previous timestep is the neighbour's."""
    reference = scheduler_of(
        prediction_type=prediction_type,
        timestep_spacing=spacing,
        set_alpha_to_one=set_alpha_to_one,
    )
    reference.set_timesteps(steps)
    table = DDIMTable.from_scheduler(reference, steps)
    assert list(table.timesteps) == sorted(reference.timesteps.tolist())
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(1, 4, 3, 3, generator=generator)
    output = torch.randn(1, 4, 3, 3, generator=generator)
    compared = 0
    for i in range(steps, 0, -1):
        presumed = table.timestep(i) - 1000 // steps
        neighbour = table.timestep(i - 1) if i > 1 else -1
        if max(presumed, -1) != neighbour:
            continue
        theirs = reference.step(output, table.timestep(i), z).prev_sample
        ours = table.denoise_step(z, table.predicted_noise(output, z, i), i)
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-4)
        compared += 1
    assert compared > 0


def test_prediction_types_stand_for_the_same_noise() -> None:
    tables = {
        kind: DDIMTable.from_scheduler(scheduler_of(prediction_type=kind), 10)
        for kind in PREDICTION_TYPES
    }
    generator = torch.Generator().manual_seed(2)
    clean = torch.randn(1, 4, 3, 3, dtype=torch.float64, generator=generator)
    noise = torch.randn(1, 4, 3, 3, dtype=torch.float64, generator=generator)
    for i in range(1, 11):
        table = tables["epsilon"]
        root, sigma = math.sqrt(table.alphas[i]), table.sigma(i)
        z = root * clean + sigma * noise
        outputs = {
            "epsilon": noise,
            "v_prediction": root * noise - sigma * clean,
            "sample": clean,
        }
        for kind, output in outputs.items():
            predicted = tables[kind].predicted_noise(output, z, i)
            torch.testing.assert_close(predicted, noise, rtol=1e-9, atol=1e-9)


def test_neighbours_come_from_the_list_of_timesteps() -> None:
    table = DDIMTable.from_scheduler(scheduler_of(timestep_spacing="trailing"), 7)
    cumulative = scheduler_of().alphas_cumprod.double()
    for i in range(2, 8):
        assert table.alphas[i - 1] == float(cumulative[table.timestep(i - 1)])
    arithmetic = [table.timestep(i) - 1000 // 7 for i in range(2, 8)]
    assert arithmetic != [table.timestep(i - 1) for i in range(2, 8)]


def test_default_inverse_scheduler_of_diffusers_differs() -> None:
    """A known trap: its defaults are not those of the model."""
    default = DDIMInverseScheduler()
    assert default.config.beta_end != scheduler_of().config.beta_end
    table = DDIMTable.from_scheduler(scheduler_of(), 50)
    assert table.timesteps[:2] == (1, 21)
    assert table.timesteps[-1] == 981


def test_another_scheduler_class_gives_the_same_table() -> None:
    pndm = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        skip_prk_steps=True,
    )
    assert DDIMTable.from_scheduler(pndm, 20) == DDIMTable.from_scheduler(scheduler_of(), 20)


@given(steps=st.integers(1, 990))
def test_noisy_end_timesteps_ascend_and_lean_to_the_noise(steps: int) -> None:
    table = DDIMTable.from_scheduler(scheduler_of(), steps, "noisy-end")
    gaps = [later - earlier for earlier, later in pairwise(table.timesteps)]
    assert table.timesteps[-1] == 990
    assert table.timesteps[0] >= 0
    assert all(gap >= 1 for gap in gaps)
    if 3 <= steps <= 30:
        assert gaps[0] > gaps[-1]


def test_zero_terminal_signal_is_refused_by_name() -> None:
    rescaled = scheduler_of(rescale_betas_zero_snr=True)
    with pytest.raises(ScheduleError, match="zero terminal SNR"):
        DDIMTable.from_scheduler(rescaled, 10, "trailing")
    assert DDIMTable.from_scheduler(rescaled, 10, "noisy-end").alphas[-1] > 0


@pytest.mark.parametrize(
    ("steps", "spacing", "cause"),
    [(0, None, "1 to 1000"), (1001, None, "1 to 1000"), (10, "even", "leading, trailing")],
)
def test_settings_out_of_range_are_named(steps: int, spacing: str | None, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        DDIMTable.from_scheduler(scheduler_of(), steps, spacing)


@pytest.mark.parametrize(
    "name",
    [
        "FlowMatchEulerDiscreteScheduler",
        "EDMEulerScheduler",
        "EDMDPMSolverMultistepScheduler",
        "LCMScheduler",
        "TCDScheduler",
        "IPNDMScheduler",
        "CogVideoXDDIMScheduler",
    ],
)
def test_a_scheduler_of_another_process_is_refused(name: str) -> None:
    with pytest.raises(ScheduleError, match=f"{name} is of another process"):
        DDIMTable.from_scheduler(getattr(diffusers, name)(), 10)


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("DDIMScheduler", "clip_sample", True),
        ("DDIMScheduler", "thresholding", True),
        ("DDPMScheduler", "variance_type", "learned_range"),
        ("UniPCMultistepScheduler", "use_flow_sigmas", True),
        ("EulerDiscreteScheduler", "timestep_type", "continuous"),
    ],
)
def test_a_setting_of_another_process_is_refused(name: str, setting: str, value: Any) -> None:
    settings = {"clip_sample": False} if "DD" in name else {}
    scheduler = getattr(diffusers, name)(**{**settings, setting: value})
    with pytest.raises(ScheduleError, match=f"{name} has {setting}={value}"):
        DDIMTable.from_scheduler(scheduler, 10, "leading")


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("EulerDiscreteScheduler", "use_karras_sigmas", True),
        ("EulerDiscreteScheduler", "use_exponential_sigmas", True),
        ("HeunDiscreteScheduler", "use_beta_sigmas", True),
        ("DPMSolverMultistepScheduler", "use_lu_lambdas", True),
        ("DPMSolverMultistepScheduler", "lambda_min_clipped", -5.1),
    ],
)
def test_steps_that_are_not_read_need_a_spacing(name: str, setting: str, value: Any) -> None:
    own = getattr(diffusers, name)(**BETAS, **{setting: value})
    with pytest.raises(ScheduleError, match=rf"{setting}={value}: .* choose a spacing"):
        DDIMTable.from_scheduler(own, 10)
    plain = getattr(diffusers, name)(**BETAS)
    chosen = [DDIMTable.from_scheduler(one, 10, "trailing") for one in (own, plain)]
    assert chosen[0] == chosen[1]


@pytest.mark.parametrize("name", sorted(set(READABLE_SCHEDULERS) - {"DPMSolverSDEScheduler"}))
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace", "noisy-end"])
def test_every_readable_scheduler_gives_the_same_table(name: str, spacing: str) -> None:
    """DPMSolverSDEScheduler needs torchsde, which is not required here."""
    extra = {"clip_sample": False} if "DD" in name else {}
    extra |= {"set_alpha_to_one": True} if name == "PNDMScheduler" else {}
    scheduler = getattr(diffusers, name)(**BETAS, **extra)
    reference = scheduler_of(set_alpha_to_one=True, steps_offset=0)
    table = DDIMTable.from_scheduler(scheduler, 10, spacing)
    assert table == DDIMTable.from_scheduler(reference, 10, spacing)


def test_betas_that_only_the_own_class_knows_are_read() -> None:
    sigmoid = diffusers.DDPMScheduler(beta_schedule="sigmoid", clip_sample=False)
    table = DDIMTable.from_scheduler(sigmoid, 10)
    assert table.alphas[10] == float(sigmoid.alphas_cumprod[table.timestep(10)])


def test_a_default_that_was_left_out_is_the_own_classs() -> None:
    """Euler's spacing is linspace where none is written down, DDIM's is leading."""
    assert DDIMTable.from_scheduler(EulerDiscreteScheduler(**BETAS), 4).timesteps[0] == 0
    assert DDIMTable.from_scheduler(EulerDiscreteScheduler(**BETAS), 4).timesteps[3] == 999


@pytest.mark.parametrize(("ends", "alpha"), [("zero", 1.0), ("sigma_min", None)])
def test_the_last_sigma_of_the_scheduler_is_read(ends: str, alpha: float | None) -> None:
    euler = EulerDiscreteScheduler(**BETAS, final_sigmas_type=ends)
    expected = float(euler.alphas_cumprod[0]) if alpha is None else alpha
    assert DDIMTable.from_scheduler(euler, 5).alphas[0] == expected


@pytest.mark.parametrize("steps", [4, 10, 28])
def test_linspace_neighbours_are_those_of_diffusers_euler(steps: int) -> None:
    """The run of these many steps meets whole timesteps only: 999 is a multiple of steps - 1."""
    euler = EulerDiscreteScheduler(**BETAS, timestep_spacing="linspace")
    euler.set_timesteps(steps)
    table = DDIMTable.from_scheduler(euler, steps)
    assert list(table.timesteps) == [round(float(t)) for t in euler.timesteps][::-1]
    sigmas = [table.sigma(i) / math.sqrt(table.alphas[i]) for i in range(steps, -1, -1)]
    np.testing.assert_allclose(sigmas, euler.sigmas.numpy(), rtol=1e-5, atol=1e-6)
    # Euler's latents are z / sqrt(a): a whole run with a noise that depends on the timestep.
    theirs = torch.full((1, 1, 2, 2), 3.0)
    ours = theirs * math.sqrt(table.alphas[steps])
    run = [theirs]
    for i, timestep in zip(range(steps, 0, -1), euler.timesteps, strict=True):
        noise = torch.full_like(ours, math.cos(float(timestep)))
        theirs = euler.step(noise, timestep, theirs).prev_sample
        ours = table.denoise_step(ours, noise, i)
        run.append(theirs)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    # And back, from its end to each of its latents.
    for i, timestep in zip(range(1, steps + 1), reversed(euler.timesteps), strict=True):
        ours = table.inverse_step(ours, torch.full_like(ours, math.cos(float(timestep))), i)
        scaled = ours / math.sqrt(table.alphas[i])
        torch.testing.assert_close(scaled, run[steps - i], rtol=1e-3, atol=1e-3)


def test_unused_scheduler_settings_are_named() -> None:
    solver = diffusers.DPMSolverMultistepScheduler(**BETAS, solver_order=3)
    ignored = ignored_settings(solver)
    assert ignored["solver_order"] == 3
    assert not {"beta_start", "timestep_spacing", "use_karras_sigmas"} & set(ignored)
