from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from schedules import FunctionNetwork, mild, table_of
from torch import Tensor

from dehaze.inversion import (
    SOLVERS,
    ExactSampler,
    InversionResult,
    InversionSettings,
    SettingError,
    denoise,
    invert,
)

TABLE = table_of(10)
MILD = FunctionNetwork(TABLE, mild)
OF_DDIM = [name for name in SOLVERS.names() if SOLVERS.get(name).process != "flow"]
EXACT = InversionSettings(
    steps=10, solver="fixed-point", predictor="previous", tolerance=1e-13, max_iterations=200
)


def settings_of(solver: str = "fixed-point", **options: Any) -> InversionSettings:
    """A solver as it was published, in 10 steps of at most 5 iterations, but for these options."""
    return InversionSettings(steps=10, max_iterations=5).changed(solver=solver, **options)


def latents(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 8, 10, generator=torch.Generator().manual_seed(0))


def test_a_converged_step_solves_the_implicit_equation() -> None:
    z_0 = latents().double()
    result = invert(MILD, z_0, EXACT)
    everyone = torch.arange(2)
    for i in range(1, 11):
        z = result.trajectory[i]
        A, B = TABLE.coefficients(i)
        implicit = A * result.trajectory[i - 1] + B * mild(z, i, everyone)
        assert (implicit - z).abs().max() < 1e-11
    assert result.trace.converged.all()
    back = denoise(result, MILD)
    assert (back - z_0).abs().max() < 1e-10


def test_plain_ddim_inversion_does_not_come_back() -> None:
    z_0 = latents().double()
    plain = invert(MILD, z_0, settings_of("ddim"))
    exact = invert(MILD, z_0, EXACT)
    lost = (denoise(plain, MILD) - z_0).abs().max()
    kept = (denoise(exact, MILD) - z_0).abs().max()
    assert lost > 1e3 * kept


@pytest.mark.parametrize("solver", OF_DDIM)
def test_strength_zero_undoes_any_inversion(solver: str) -> None:
    z_0 = latents()
    result = invert(MILD, z_0, replace(settings_of(solver), max_iterations=2))
    never = FunctionNetwork(TABLE, mild)
    assert (denoise(result, never, strength=0.0) - z_0).abs().max() < 1e-5
    assert not never.calls


@pytest.mark.parametrize("name", OF_DDIM)
def test_every_solver_counts_its_evaluations(name: str) -> None:
    solver = SOLVERS.get(name)
    assert "NFE" in solver.cost
    assert solver.source
    result = invert(MILD, latents().double(), replace(settings_of(name), max_iterations=1))
    assert result.settings.solver == name
    lost = float((denoise(result, MILD) - latents().double()).abs().max())
    assert (lost < 1e-6) == isinstance(solver, ExactSampler)


def test_strength_may_be_a_map() -> None:
    z_0 = latents()
    result = invert(MILD, z_0, settings_of(tolerance=1e-6, max_iterations=60))
    target = FunctionNetwork(TABLE, lambda z, i, index: mild(z, i, index) + 0.3)

    halves = torch.zeros(1, 1, 8, 10)
    halves[..., 3:] = 1.0
    mapped = denoise(result, target, strength=halves)
    full = denoise(result, target)
    assert (mapped[..., :3] - z_0[..., :3]).abs().max() < 1e-4
    # The toy network is local, so each half is what it would be alone.
    torch.testing.assert_close(mapped[..., 3:], full[..., 3:], rtol=1e-4, atol=1e-4)
    assert (full - z_0).abs().max() > 0.1


def test_partial_inversion_stops_at_its_depth() -> None:
    result = invert(MILD, latents(), settings_of(tolerance=1e-7, max_iterations=60, depth=6))
    assert result.trajectory.shape == (7, 2, 3, 8, 10)
    assert result.noise.shape == (6, 2, 3, 8, 10)
    assert result.trace.nfe.shape == (6, 2)
    assert (denoise(result, MILD) - latents()).abs().max() < 1e-4


def test_half_precision_networks_leave_latents_in_single() -> None:
    half = FunctionNetwork(TABLE, lambda z, i, index: mild(z.half(), i, index))
    result = invert(half, latents().half(), settings_of())
    assert result.trajectory.dtype == result.noise.dtype == torch.float32


def test_guided_evaluations_count_twice() -> None:
    settings = settings_of(max_iterations=3, tolerance=1e-9)
    once = invert(MILD, latents(), settings)
    twice = invert(FunctionNetwork(TABLE, mild, cost=2), latents(), settings)
    assert torch.equal(2 * once.trace.nfe, twice.trace.nfe)


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"solver": "newton"}, "newton"),
        ({"predictor": "oracle"}, "oracle"),
        ({"relaxation": "yoga"}, "yoga"),
        ({"criterion": "luck"}, "luck"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"tolerance": math.nan}, "tolerance"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"steps": 9}, "9 steps"),
        ({"depth": 0}, "depth is 0: it must be a whole number"),
        ({"depth": 11}, "1 to 10"),
        ({"adjustment_repeats": 2}, "adjustment"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        invert(MILD, latents(), InversionSettings(**{"steps": 10, **settings}))


@pytest.mark.parametrize(
    ("own", "given"),
    [
        ("anderson", {"solver": "edict", "tolerance": 1e-3}),
        ("anderson", {"solver": "bdia", "predictor": "ife"}),
        ("edict", {"checked": True}),
        ("anderson", {"solver": "ddim", "max_iterations": 3}),
        ("anderson", {"solver": "ddim", "tolerance": 1e-3}),
        ("easyinv", {"tolerance": 1e-3}),
        ("easyinv", {"criterion": "residual"}),
    ],
)
def test_a_setting_without_effect_is_refused(own: str, given: dict[str, Any]) -> None:
    # Defaults of a model for other solvers are no fault.
    settings = InversionSettings(steps=10, solver=own, tolerance=1e-3, max_iterations=3)
    assert settings.changed(solver=given.get("solver"), depth=2).depth == 2
    with pytest.raises(ValueError, match=f"{list(given)[-1]} has no effect with the solver"):
        settings.changed(**given)


def test_a_named_solver_runs_as_it_was_published() -> None:
    best = InversionSettings(relaxation="fitted", criterion="expected-error")
    named = best.changed(solver="anderson", tolerance=None)
    assert (named.predictor, named.relaxation, named.criterion) == (
        "previous", "none", "intra-path"
    )  # fmt: skip
    assert best.changed(solver="anderson", predictor="ife").predictor == "ife"
    assert best.changed(max_iterations=3).criterion == "expected-error"


def test_a_named_solver_iterates_where_the_model_does_not() -> None:
    single = InversionSettings(max_iterations=1)
    assert single.changed(solver="anderson").max_iterations == 10
    assert single.changed(solver="anderson", max_iterations=1).max_iterations == 1
    assert single.changed(steps=3).max_iterations == 1
    assert replace(single, max_iterations=2).changed(solver="anderson").max_iterations == 2


@pytest.mark.parametrize("option", [{"tolerance": 1e-6}, {"criterion": "residual"}])
def test_steps_of_one_iteration_have_no_end_to_choose(option: dict[str, Any]) -> None:
    single = InversionSettings(max_iterations=1)
    with pytest.raises(SettingError, match=f"{next(iter(option))} has no effect where a step"):
        single.changed(**option)
    # More iterations end by it, and the check measures by it.
    assert single.changed(**option, max_iterations=9).max_iterations == 9
    assert single.changed(**option, checked=True).checked


@pytest.mark.parametrize(
    "given",
    [
        {"solver": "anderson", "max_iterations": 1},
        {"max_iterations": 1, "criterion": "certificate"},
    ],
)
def test_a_tolerance_without_effect_is_refused(given: dict[str, Any]) -> None:
    settings = InversionSettings(steps=10)
    with pytest.raises(SettingError, match="tolerance has no effect where a step takes one"):
        settings.changed(**given, tolerance=1e-6)
    assert settings.changed(**given, tolerance=1e-6, checked=True).tolerance == 1e-6


@pytest.mark.parametrize("solver", ["ddim", "easyinv"])
def test_a_checked_solution_is_compared_with_the_tolerance(solver: str) -> None:
    def converged(tolerance: float) -> bool:
        settings = InversionSettings(steps=10).changed(
            solver=solver, checked=True, tolerance=tolerance
        )
        return bool(invert(MILD, latents(), settings).trace.converged.any())

    assert converged(1.0)
    assert not converged(1e-8)


def test_a_tolerance_judges_one_iteration_by_its_residual() -> None:
    def converged(tolerance: float) -> bool:
        settings = InversionSettings(steps=10).changed(
            max_iterations=1, criterion="residual", tolerance=tolerance
        )
        return bool(invert(MILD, latents(), settings).trace.converged.any())

    assert converged(1.0)
    assert not converged(1e-8)


def test_the_trace_names_its_worst_residual_and_is_plain_data() -> None:
    result = invert(MILD, latents(), settings_of(max_iterations=3, tolerance=1e-9))
    last = result.trace.residuals[:, -1]
    assert result.trace.worst_residual == pytest.approx(float(last.max()))
    plain = result.trace.to_dict()
    assert plain["nfe"] == result.trace.nfe.tolist()
    unmeasured = invert(MILD, latents(), settings_of("ddim")).trace
    assert math.isnan(unmeasured.worst_residual)
    assert unmeasured.to_dict()["residuals"][0][0] == [None, None]


@pytest.mark.parametrize("solver", ["fixed-point", "anderson"])
def test_a_second_path_changes_no_solution_and_is_counted(solver: str) -> None:
    settings = settings_of(solver, tolerance=1e-6, max_iterations=60)
    single = invert(MILD, latents().double(), settings)
    paired = invert(MILD, latents().double(), settings.changed(criterion="inter-path"))
    torch.testing.assert_close(paired.trajectory, single.trajectory, rtol=1e-4, atol=1e-4)
    assert paired.trace.stopped.all()
    assert torch.equal(paired.trace.nfe, 2 * paired.trace.iterations)
    assert single.trace.inter.isnan().all()
    # The first path starts at DDIM's guess, the second elsewhere: they come to one point.
    assert (paired.trace.inter[:, 0] > paired.trace.last_residuals).all()


def test_two_paths_invert_a_sample_as_if_alone() -> None:
    settings = settings_of(tolerance=1e-6, max_iterations=60, criterion="inter-path")
    both = invert(MILD, latents(), settings)
    alone = invert(MILD, latents()[1:], settings)
    torch.testing.assert_close(both.trajectory[:, 1:], alone.trajectory)
    assert torch.equal(both.trace.nfe[:, 1:], alone.trace.nfe)


def test_easyinv_blends_only_in_its_share_of_the_steps() -> None:
    plain = invert(MILD, latents(), settings_of("ddim"))
    eased = invert(MILD, latents(), settings_of("easyinv"))
    # N = 10: 0.5 < i < 2.5.
    everyone = torch.arange(2)
    for i in range(1, 11):
        previous = eased.trajectory[i - 1]
        explicit = TABLE.inverse_step(previous, mild(previous, i, everyone), i)
        expected = 0.5 * (explicit + previous) if i <= 2 else explicit
        torch.testing.assert_close(eased.trajectory[i], expected)
    assert torch.equal(eased.trace.nfe, plain.trace.nfe)
    assert not torch.equal(eased.latents, plain.latents)


def test_a_step_is_left_where_its_expected_error_is_small() -> None:
    # Without a relaxation the whole change may be an error.
    settings = settings_of("anderson", max_iterations=60)
    unrelaxed = invert(MILD, latents(), settings.changed(criterion="expected-error"))
    change = invert(MILD, latents(), settings.changed(criterion="intra-path"))
    assert torch.equal(unrelaxed.trace.nfe, change.trace.nfe)
    # With one, a step takes one evaluation, and more where the tolerance is stricter.
    relaxed = settings.changed(relaxation="fitted", criterion="expected-error")
    nfe = [
        int(invert(MILD, latents(), relaxed.changed(tolerance=tolerance)).trace.nfe.sum())
        for tolerance in (1.0, 1e-3, 1e-6)
    ]
    assert 20 == nfe[0] < nfe[1] < nfe[2]


def residuals_of(result: InversionResult) -> Tensor:
    """norm(f(z) - z) / norm(z) of the steps, (n, B), evaluated here."""
    everyone = torch.arange(result.latents.shape[0])
    found = []
    for i in range(1, result.steps + 1):
        z = result.trajectory[i]
        mapped = TABLE.inverse_step(result.trajectory[i - 1], mild(z, i, everyone), i)
        found.append((mapped - z).flatten(1).norm(dim=1) / z.flatten(1).norm(dim=1))
    return torch.stack(found)


@pytest.mark.parametrize("criterion", ["intra-path", "certificate", "expected-error"])
@pytest.mark.parametrize("relaxation", ["none", "fitted"])
def test_only_evaluated_steps_are_called_converged(criterion: str, relaxation: str) -> None:
    settings = settings_of("anderson", criterion=criterion, relaxation=relaxation, tolerance=1e-2)
    silent = invert(MILD, latents(), settings)
    assert silent.trace.stopped.any()
    assert not silent.trace.converged.any()
    checked = invert(MILD, latents(), settings.changed(checked=True))
    torch.testing.assert_close(checked.trajectory, silent.trajectory)
    assert torch.equal(checked.trace.nfe, silent.trace.nfe + 1)
    torch.testing.assert_close(checked.trace.remaining, residuals_of(checked), rtol=1e-3, atol=1e-7)
    assert torch.equal(checked.trace.converged, checked.trace.remaining < 1e-2)


def test_the_default_counts_its_evaluations() -> None:
    result = invert(MILD, latents(), InversionSettings(steps=10))
    assert result.trace.converged.all()
    torch.testing.assert_close(result.trace.remaining, residuals_of(result), rtol=1e-3, atol=1e-7)
    short = invert(MILD, latents(), InversionSettings(steps=10, max_iterations=1))
    assert not short.trace.converged.all()
    assert torch.equal(short.trace.converged, residuals_of(short) < 1e-4)


@pytest.mark.parametrize("solver", ["fixed-point", "anderson", "averaged"])
def test_a_start_nearby_saves_evaluations_alone(solver: str) -> None:
    settings = replace(EXACT, solver=solver, tolerance=1e-6, max_iterations=50)
    z_0 = latents().double()
    neighbour = invert(MILD, z_0 + 1e-3 * z_0.flip(-1), settings)
    alone, started = invert(MILD, z_0, settings), invert(MILD, z_0, settings, start=neighbour)
    assert started.trace.nfe.sum() < alone.trace.nfe.sum()
    assert (started.latents - alone.latents).abs().max() < 1e-4


def test_a_start_from_its_own_inversion_is_converged() -> None:
    table = table_of(10, "noisy-end", set_alpha_to_one=True)
    network, z_0 = FunctionNetwork(table, mild), latents().double()
    exact = invert(network, z_0, EXACT)
    assert table.sigma(0) == 0.0
    again = invert(network, z_0, replace(EXACT, tolerance=1e-9), start=exact)
    assert again.trace.iterations.max() == 1


@pytest.mark.parametrize("solver", ["ddim", "easyinv", "edict"])
def test_a_solver_that_iterates_nothing_takes_no_start(solver: str) -> None:
    neighbour = invert(MILD, latents(), settings_of())
    with pytest.raises(ValueError, match=f"{solver} iterates nothing"):
        invert(MILD, latents(), settings_of(solver), start=neighbour)


def test_a_start_of_another_size_or_schedule_is_refused() -> None:
    neighbour = invert(MILD, latents(), settings_of())
    with pytest.raises(ValueError, match=r"\(2, 3, 8, 10\) and the picture's \(1, 3, 8, 10\)"):
        invert(MILD, latents(1), settings_of(), start=neighbour)
    trailing = FunctionNetwork(table_of(10, "trailing"), mild)
    with pytest.raises(ValueError, match="another schedule"):
        invert(trailing, latents(), settings_of(), start=neighbour)
