"""Rectified flows: their schedule, and the solvers, criteria and predictors of DDIM on them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from schedules import FunctionNetwork, flow_table_of, mild, table_of
from torch import Tensor

from dehaze.inversion import (
    CRITERIA,
    PREDICTORS,
    RELAXATIONS,
    SOLVERS,
    ExactSampler,
    FlowTable,
    InversionResult,
    InversionSettings,
    ScheduleError,
    adjust,
    denoise,
    generate,
    invert,
)
from dehaze.inversion.flow import ignored_flow_settings
from dehaze.inversion.predictors import explicit_step
from dehaze.inversion.solvers import idle_settings
from dehaze.inversion.stochastic import step_deviation

STEPS = 4
TABLE = flow_table_of(STEPS)
MILD = FunctionNetwork(TABLE, mild)
BOTH = [name for name in SOLVERS.names() if SOLVERS.get(name).process is None]


def latents(batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, 8, 10, generator=generator, dtype=torch.float64)


def settings_of(solver: str, **options: Any) -> InversionSettings:
    return InversionSettings(steps=STEPS, max_iterations=5).changed(solver=solver, **options)


EXACT = settings_of("anderson", criterion="residual", tolerance=1e-13, max_iterations=60)


@pytest.mark.parametrize("steps", [1, 4, 28])
def test_a_fixed_shift_places_the_steps_of_stable_diffusion_3(steps: int) -> None:
    """Even sigmas from 1 to the shifted smallest, shifted: what its published code does."""
    found = flow_table_of(steps, shift=3.0)
    smallest = 3.0 * 0.001 / (1.0 + 2.0 * 0.001)
    even = [1.0 + (smallest - 1.0) * j / max(1, steps - 1) for j in range(steps)]
    wanted = [0.0, *reversed([3.0 * s / (1.0 + 2.0 * s) for s in even])]
    torch.testing.assert_close(torch.tensor(found.sigmas), torch.tensor(wanted), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        torch.tensor(found.timesteps), 1000.0 * torch.tensor(wanted[1:]), atol=1e-3, rtol=0
    )
    assert (found.steps, found.sigmas[0], found.sigmas[-1]) == (steps, 0.0, 1.0)


@pytest.mark.parametrize("positions", [256, 1024, 6000])
def test_a_dynamic_shift_places_the_steps_of_flux(positions: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
    found = FlowTable.from_scheduler(scheduler, 5, positions=positions, even=True)
    m = 0.5 + (1.15 - 0.5) * (positions - 256) / (4096 - 256)
    wanted = [0.0, *(math.exp(m) / (math.exp(m) + 5.0 / j - 1.0) for j in range(1, 6))]
    torch.testing.assert_close(torch.tensor(found.sigmas), torch.tensor(wanted), atol=1e-6, rtol=0)
    # The scheduler that is read is not set to these steps.
    assert len(scheduler.timesteps) == 1000


def test_a_step_back_is_the_schedulers_own() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(STEPS)
    z = wanted = latents()
    for i, timestep in zip(range(STEPS, 0, -1), scheduler.timesteps, strict=True):
        assert TABLE.timestep(i) == float(timestep)
        v = torch.tanh(z + i)
        wanted = scheduler.step(torch.tanh(wanted + i), timestep, wanted).prev_sample
        z = TABLE.denoise_step(z, v, i)
    torch.testing.assert_close(z, wanted, atol=1e-6, rtol=0)


def test_a_step_undoes_a_step() -> None:
    z, v = latents(), latents().flip(0)
    for i in range(1, STEPS + 1):
        there = TABLE.inverse_step(z, v, i)
        torch.testing.assert_close(TABLE.denoise_step(there, v, i), z, atol=1e-12, rtol=0)
        torch.testing.assert_close(TABLE.noise_of_step(there, z, i), v, atol=1e-9, rtol=0)
    # Noise and picture on one line: the velocity leads from any point to both ends.
    clean, noise = latents(), latents().roll(1, 3)
    z = TABLE.noised(clean, noise, 3)
    picture = TABLE.predicted_picture(z, noise - clean, 3)
    torch.testing.assert_close(picture, clean, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("invert_sigmas", True),
        ("use_karras_sigmas", True),
        ("use_exponential_sigmas", True),
        ("use_beta_sigmas", True),
        ("shift_terminal", 0.1),
        ("stochastic_sampling", True),
    ],
)
def test_settings_that_make_other_steps_are_named(setting: str, value: object) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(**{setting: value})
    with pytest.raises(ScheduleError, match=f"{setting}={value}"):
        FlowTable.from_scheduler(scheduler, 4, positions=16)


def test_settings_that_no_flow_has_are_named() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ScheduleError, match="'trailing' is of DDIM"):
        FlowTable.from_scheduler(scheduler, 4, "trailing", positions=16)
    with pytest.raises(ScheduleError, match="1001 steps: there must be 1 to 1000"):
        FlowTable.from_scheduler(scheduler, 1001, positions=16)
    with pytest.raises(ScheduleError, match="sigmas must ascend"):
        FlowTable((1.0, 2.0), (0.0, 0.5, 0.5))
    with pytest.raises(ScheduleError, match=r"eta is 0\.5: it is the noise of DDIM"):
        step_deviation(TABLE, 2, 0.5)
    assert step_deviation(TABLE, 2, 0.0) == 0.0
    with pytest.raises(ScheduleError, match="solver renoise-regularised is not made for") as said:
        invert(MILD, latents(), settings_of("renoise-regularised"))
    assert "anderson" in str(said.value)
    with pytest.raises(ScheduleError, match=r"relaxation fitted is not made for.*wiener"):
        invert(MILD, latents(), settings_of("ddim", relaxation="fitted"))
    with pytest.raises(TypeError, match="fitted on DDIM"):
        RELAXATIONS.get("fitted").of_step(TABLE, 1, latents().shape)
    assert ignored_flow_settings(scheduler) == {}


@pytest.mark.parametrize("name", BOTH)
def test_every_solver_serves_a_flow(name: str) -> None:
    z_0, solver = latents(), SOLVERS.get(name)
    many = replace(settings_of(name), max_iterations=40, tolerance=1e-10)
    result = invert(MILD, z_0, many)
    lost = (denoise(result, MILD) - z_0).abs().max()
    if isinstance(solver, ExactSampler):
        assert lost < 1e-8
    elif "max_iterations" in idle_settings(name):
        # One evaluation a step: near, and not exact.
        assert 1e-4 < lost < 0.5
    else:
        assert lost < 1e-7
    assert (denoise(result, MILD, strength=0.0) - z_0).abs().max() < 1e-10


STARTS = [(name, "residual") for name in PREDICTORS.names()]
STOPS = [("previous", name) for name in CRITERIA.names()]


@pytest.mark.parametrize(("predictor", "criterion"), STARTS + STOPS)
def test_every_criterion_and_start_leads_to_one_solution(predictor: str, criterion: str) -> None:
    exact = invert(MILD, latents(), EXACT)
    settings = settings_of("anderson", predictor=predictor, criterion=criterion, tolerance=1e-8)
    found = invert(MILD, latents(), replace(settings, max_iterations=30))
    assert found.trace.stopped.all()
    torch.testing.assert_close(found.trajectory, exact.trajectory, atol=1e-6, rtol=0)


def test_no_sample_depends_on_its_neighbours() -> None:
    settings = settings_of("anderson", criterion="inter-path", tolerance=1e-6, max_iterations=30)
    both = invert(MILD, latents(), settings)
    for b in (0, 1):
        alone = invert(MILD, latents()[b : b + 1], settings)
        torch.testing.assert_close(both.trajectory[:, b : b + 1], alone.trajectory)


@pytest.mark.parametrize("rate", [-0.6, 0.5])
def test_the_certificate_bounds_the_error_of_a_linear_flow(rate: float) -> None:
    """v = r z / (sigma_i - sigma_{i-1}): f contracts by r everywhere, so the bound is Banach's."""
    widths = [TABLE.sigmas[i] - TABLE.sigmas[i - 1] for i in range(1, STEPS + 1)]
    network = FunctionNetwork(TABLE, lambda z, i, index: rate / widths[i - 1] * z)
    settings = settings_of("fixed-point", criterion="certificate", tolerance=1e-5)
    result = invert(network, latents(), replace(settings, max_iterations=80))
    assert result.trace.stopped.all()
    for i in range(1, STEPS + 1):
        exact = result.trajectory[i - 1] / (1.0 - rate)
        error = (result.trajectory[i] - exact).flatten(1).norm(dim=1)
        error = error / exact.flatten(1).norm(dim=1)
        bounds = result.trace.bounds[i - 1]
        last = bounds[result.trace.iterations[i - 1] - 1, torch.arange(2)]
        assert (error <= last * (1.0 + 1e-3)).all()
        assert (last < 1e-5).all()


def test_the_explicit_step_is_the_fixed_point_itself() -> None:
    exact = invert(MILD, latents(), EXACT)
    for i in range(2, STEPS + 1):
        z, v = exact.trajectory[i], exact.noise[i - 1]
        clean = TABLE.predicted_picture(z, v, i)
        found = explicit_step(TABLE, i, exact.trajectory[i - 1], clean)
        torch.testing.assert_close(found, z, atol=1e-8, rtol=0)


def test_a_straight_flow_is_guessed_without_an_evaluation() -> None:
    noise = latents().flip(0)
    network = FunctionNetwork(TABLE, lambda z, i, index: (noise - latents())[index % 2])
    result = invert(network, latents(), settings_of("fixed-point", predictor="ife"))
    torch.testing.assert_close(result.latents, noise, atol=1e-9, rtol=0)
    # After the first step the guess is the solution: one evaluation finds a residual of nothing.
    assert result.trace.iterations[1:].eq(1).all()
    assert result.trace.residuals[1:, 0].max() < 1e-9


def filtered(table: FlowTable, variance: float) -> FunctionNetwork:
    """The velocity of Gaussian pictures: x0hat = k V / (k^2 V + s^2) z, with k = 1 - s."""

    def velocity(z: Tensor, i: int, index: Tensor) -> Tensor:
        signal, sigma = table.signal(i), table.sigma(i)
        picture = signal * variance / (signal**2 * variance + sigma**2) * z
        return (z - picture) / sigma

    return FunctionNetwork(table, velocity)


def test_wiener_solves_a_wiener_filters_steps_at_once() -> None:
    network = filtered(TABLE, latents()[0].numel() / 16.0)
    once = invert(network, latents(), settings_of("ddim", relaxation="wiener"))
    exact = [latents()]
    for i in range(1, STEPS + 1):
        # v = r z: z_i = z_{i-1} / (1 - (sigma_i - sigma_{i-1}) r).
        rate = network(torch.ones((), dtype=torch.float64), i, torch.zeros(1))
        exact.append(exact[-1] / (1.0 - (TABLE.sigmas[i] - TABLE.sigmas[i - 1]) * rate))
    torch.testing.assert_close(once.trajectory, torch.stack(exact), rtol=1e-9, atol=1e-9)
    plain = invert(network, latents(), settings_of("ddim"))
    assert (plain.trajectory - torch.stack(exact)).abs().max() > 1e-3


def test_a_generated_path_is_an_inversion_without_error() -> None:
    path = generate(MILD, latents(), settings_of("ddim"))
    torch.testing.assert_close(denoise(path, MILD), path.trajectory[0], atol=1e-12, rtol=0)
    again = invert(MILD, path.trajectory[0], EXACT)
    torch.testing.assert_close(again.latents, latents(), atol=1e-9, rtol=0)


def test_the_last_step_may_go_to_the_picture_at_once() -> None:
    result = invert(MILD, latents(), EXACT)
    one = denoise(result, MILD, steps=1)
    z = result.latents
    torch.testing.assert_close(one, z - MILD(z, STEPS, torch.arange(2)), atol=1e-9, rtol=0)
    kept = denoise(result, MILD, steps=1, strength=0.0)
    torch.testing.assert_close(kept, latents(), atol=1e-9, rtol=0)


def test_the_adjustments_serve_a_flow() -> None:
    adjusted, change = adjust("noise-denoise", MILD, latents())
    assert (adjusted != latents()).any()
    assert (change > 0).all()
    long = FunctionNetwork(flow_table_of(20), mild)
    moved, _ = adjust("img2img", long, latents())
    table = long.table
    # One step from the picture under a drawn noise, at sigma_1.
    draw = torch.Generator().manual_seed(0)
    n = torch.randn(latents().shape[1:], generator=draw, dtype=torch.float64)
    z = (1.0 - table.sigma(1)) * latents() + table.sigma(1) * n
    wanted = z - table.sigma(1) * mild(z, 1, torch.arange(2))
    torch.testing.assert_close(moved, wanted, atol=1e-12, rtol=0)


def test_a_saved_inversion_of_a_flow_is_the_same(tmp_path: Path) -> None:
    result = invert(MILD, latents(), settings_of("anderson"))
    result.save(tmp_path / "flow.safetensors")
    loaded = InversionResult.load(tmp_path / "flow.safetensors")
    assert loaded.table == TABLE
    assert torch.equal(loaded.trajectory, result.trajectory)
    ddim = invert(FunctionNetwork(table_of(STEPS), mild), latents(), settings_of("anderson"))
    ddim.save(tmp_path / "ddim.safetensors")
    assert InversionResult.load(tmp_path / "ddim.safetensors").table == table_of(STEPS)
