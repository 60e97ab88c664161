"""RF-Solver, FireFlow and RF-Inversion against their papers' equations, written out."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from schedules import FunctionNetwork, VelocityNetwork, flow_table_of, mild, table_of
from torch import Tensor

from dehaze.inversion import (
    FlowTable,
    InversionResult,
    InversionSettings,
    ScheduleError,
    denoise,
    invert,
    rf_solver_invert,
)

STEPS = 8
TABLE = flow_table_of(STEPS)
EVERYONE = torch.arange(2)


def velocity(z: Tensor, sigma: float) -> Tensor:
    return torch.tanh(0.7 * z + 2.0 * sigma)


def edited(z: Tensor, sigma: float) -> Tensor:
    return velocity(z, sigma) + 0.2 * torch.cos(z)


def latents() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 8, 10, generator=generator, dtype=torch.float64)


def inverted(name: str, depth: int | None = None) -> InversionResult:
    settings = InversionSettings(steps=STEPS, depth=depth).changed(solver=name)
    return invert(VelocityNetwork(TABLE, velocity), latents(), settings)


def taylor_step(v: VelocityNetwork, z: Tensor, now: float, following: float) -> Tensor:
    """Eq. 9 to 11: h v + h^2 / 2 v', v' by a difference over half the step."""
    h = following - now
    first = v.velocity(z, now)
    second = v.velocity(z + h / 2.0 * first, now + h / 2.0)
    return z + h * first + 0.5 * h**2 * (second - first) / (h / 2.0)


def test_rf_solver_equals_its_paper_both_ways() -> None:
    network = VelocityNetwork(TABLE, velocity)
    result = inverted("rf-solver")
    z = latents()
    for i in range(1, STEPS + 1):
        z = taylor_step(network, z, TABLE.sigmas[i - 1], TABLE.sigmas[i])
        torch.testing.assert_close(result.trajectory[i], z, atol=1e-12, rtol=0)
    target = VelocityNetwork(TABLE, edited)
    for i in range(STEPS, 0, -1):
        z = taylor_step(target, z, TABLE.sigmas[i], TABLE.sigmas[i - 1])
    torch.testing.assert_close(denoise(result, target), z, atol=1e-12, rtol=0)
    assert len(target.sigmas) == 2 * STEPS
    assert result.trace.nfe.eq(2).all()
    assert not result.trace.converged.any()


def test_fireflow_equals_its_paper_both_ways() -> None:
    """Algorithm 1, both ways: the velocity at the last step's middle opens the next step."""

    def walked(v: VelocityNetwork, z: Tensor, sigmas: list[float]) -> list[Tensor]:
        path, stored = [z], None
        for now, following in itertools.pairwise(sigmas):
            opening = v.velocity(path[-1], now) if stored is None else stored
            middle = path[-1] + 0.5 * (following - now) * opening
            stored = v.velocity(middle, 0.5 * (now + following))
            path.append(path[-1] + (following - now) * stored)
        return path

    result = inverted("fireflow")
    there = walked(VelocityNetwork(TABLE, velocity), latents(), list(TABLE.sigmas))
    torch.testing.assert_close(result.trajectory, torch.stack(there), atol=1e-12, rtol=0)
    target = VelocityNetwork(TABLE, edited)
    back = walked(target, there[-1], list(TABLE.sigmas[::-1]))
    torch.testing.assert_close(denoise(result, target), back[-1], atol=1e-12, rtol=0)
    assert len(target.sigmas) == STEPS + 1
    assert result.trace.nfe[:, 0].tolist() == [2] + [1] * (STEPS - 1)


def test_fireflow_forgets_its_velocity_where_latents_change() -> None:
    """As by a callback; a callback that leaves them as they are costs nothing."""
    result, changed_at = inverted("fireflow"), 5

    def changed(i: int, z: Tensor, noise: Tensor) -> Tensor:
        return z + 0.5 if i == changed_at else z.clone()

    sigmas = TABLE.sigmas
    target, v = VelocityNetwork(TABLE, edited), VelocityNetwork(TABLE, edited)
    z, stored = result.latents, None
    for i in range(STEPS, 0, -1):
        h = sigmas[i - 1] - sigmas[i]
        opening = v.velocity(z, sigmas[i]) if stored is None else stored
        stored = v.velocity(z + 0.5 * h * opening, 0.5 * (sigmas[i] + sigmas[i - 1]))
        z = z + h * stored
        if i == changed_at:
            z, stored = z + 0.5, None
    torch.testing.assert_close(denoise(result, target, revise=changed), z, atol=1e-12, rtol=0)
    assert len(target.sigmas) == STEPS + 2


def even(steps: int) -> FlowTable:
    sigmas = tuple(i / steps for i in range(steps + 1))
    return FlowTable(tuple(1000.0 * sigma for sigma in sigmas[1:]), sigmas)


def test_rf_solver_and_fireflow_are_of_second_order() -> None:
    """Of dz / dsigma = z, whose solution at 1 is e z_0."""
    exact, errors = math.e * latents(), {"rf-solver": [], "fireflow": [], "ddim": []}
    for name, found in errors.items():
        for steps in (8, 16):
            network = VelocityNetwork(even(steps), lambda z, sigma: z)
            settings = InversionSettings(steps=steps).changed(solver=name)
            found.append(float((invert(network, latents(), settings).latents - exact).norm()))
    assert errors["rf-solver"][0] / errors["rf-solver"][1] > 3.5
    assert errors["fireflow"][0] / errors["fireflow"][1] > 3.5
    assert errors["ddim"][0] / errors["ddim"][1] < 2.5
    assert errors["rf-solver"][1] < 0.1 * errors["ddim"][1]


def test_rf_solver_comes_back_nearer_than_one_evaluation_a_step() -> None:
    network = VelocityNetwork(TABLE, velocity)
    lost = {
        name: float((denoise(inverted(name), network) - latents()).norm())
        for name in ("rf-solver", "ddim", "edict")
    }
    assert 1e-8 < lost["rf-solver"] < 0.2 * lost["ddim"]
    assert lost["edict"] < 1e-8


@pytest.mark.parametrize("depth", [STEPS, 5])
def test_rf_inversion_equals_its_published_code(depth: int) -> None:
    """With descending sigmas and N of them: t_j = j / N, and the widths from the first on."""
    result = inverted("rf-inversion", depth)
    sigmas = list(TABLE.sigmas[depth::-1])
    N = len(sigmas)
    drawn = torch.randn(3, 8, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    Y = latents()
    for j in range(N - 1):
        t = j / N
        u = velocity(Y, t)
        conditional = (drawn - Y) / (1.0 - t)
        Y = Y + (u + 0.5 * (conditional - u)) * (sigmas[j] - sigmas[j + 1])
        torch.testing.assert_close(result.trajectory[j + 1], Y, atol=1e-12, rtol=0)
    X, target = Y, VelocityNetwork(TABLE, edited)
    for j in range(N - 1):
        # Its velocities point to the picture: minus the network's, and (y_0 - X) / (1 - t).
        v, t = -edited(X, sigmas[j]), 1.0 - sigmas[j]
        if j < int(0.25 * STEPS):
            v = v + 1.0 * ((latents() - X) / (1.0 - t) - v)
        X = X + v * (sigmas[j] - sigmas[j + 1])
    torch.testing.assert_close(denoise(result, target), X, atol=1e-12, rtol=0)
    assert len(target.sigmas) == depth
    assert result.trace.nfe.eq(1).all()


@pytest.mark.parametrize("name", ["rf-solver", "fireflow", "rf-inversion"])
def test_strength_zero_undoes_it_without_the_network(name: str) -> None:
    result, never = inverted(name), VelocityNetwork(TABLE, edited)
    back = denoise(result, never, strength=0.0)
    torch.testing.assert_close(back, latents(), atol=1e-10, rtol=0)
    assert not never.sigmas
    half = denoise(result, never, strength=0.5)
    assert 1e-3 < (half - latents()).abs().max() < (denoise(result, never) - latents()).abs().max()
    source = VelocityNetwork(TABLE, velocity)
    fresh = denoise(result, never, source_network=source)
    torch.testing.assert_close(fresh, denoise(result, never), atol=1e-12, rtol=0)


def test_they_are_of_flows_alone() -> None:
    ddim = FunctionNetwork(table_of(STEPS), mild)
    for name in ("rf-solver", "fireflow", "rf-inversion"):
        settings = InversionSettings(steps=STEPS).changed(solver=name)
        with pytest.raises(ScheduleError, match=f"solver {name} is not made for a model of DDIM"):
            invert(ddim, latents(), settings)
        with pytest.raises(ValueError, match=f"tolerance has no effect with the solver '{name}'"):
            InversionSettings().changed(solver=name, tolerance=0.1)
    with pytest.raises(TypeError, match="are of flow matching"):
        rf_solver_invert(ddim, latents(), 1)
    with pytest.raises(ValueError, match="goes back by its own steps: all are taken"):
        denoise(inverted("rf-solver"), VelocityNetwork(TABLE, velocity), steps=1)
