from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from schedules import table_of
from torch import Tensor

from dehaze.inversion import (
    InversionResult,
    Inverter,
    denoise,
    get_method,
    list_methods,
)
from dehaze.inversion.implicit import StepSettings, solve_steps

TABLE = table_of(10)


def mild_network(z: Tensor, i: int, index: Tensor) -> Tensor:
    """Smooth, of small Lipschitz constant, different at each step."""
    return torch.tanh(0.5 * z + 0.1 * i)


def latents(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 4, 5, generator=torch.Generator().manual_seed(0))


def test_a_converged_step_solves_the_implicit_equation() -> None:
    z_0 = latents().double()
    result = Inverter(TABLE, mild_network, tolerance=1e-13, max_iterations=200).invert(z_0)
    everyone = torch.arange(2)
    for i in range(1, 11):
        z = result.trajectory[i]
        A, B = TABLE.coefficients(i)
        implicit = A * result.trajectory[i - 1] + B * mild_network(z, i, everyone)
        assert (implicit - z).abs().max() < 1e-11
    assert result.trace.converged.all()
    back = denoise(result, mild_network)
    assert (back - z_0).abs().max() < 1e-10


def test_plain_ddim_inversion_does_not_come_back() -> None:
    z_0 = latents().double()
    plain = Inverter(TABLE, mild_network, solver="ddim").invert(z_0)
    exact = Inverter(TABLE, mild_network, tolerance=1e-13, max_iterations=200).invert(z_0)
    lost = (denoise(plain, mild_network) - z_0).abs().max()
    kept = (denoise(exact, mild_network) - z_0).abs().max()
    assert lost > 1e3 * kept


@pytest.mark.parametrize("solver", list_methods())
def test_strength_zero_undoes_any_inversion_without_the_network(solver: str) -> None:
    z_0 = latents()
    result = Inverter(TABLE, mild_network, solver=solver, max_iterations=2).invert(z_0)

    def never(z: Tensor, i: int, index: Tensor) -> Tensor:
        raise AssertionError("the network ran")

    assert (denoise(result, never, strength=0.0) - z_0).abs().max() < 1e-5


@pytest.mark.parametrize("name", list_methods())
def test_every_method_says_what_it_costs_and_keeps_its_word(name: str) -> None:
    method = get_method(name)
    assert method.name == name
    assert "NFE" in method.cost
    assert method.source
    result = Inverter(TABLE, mild_network, solver=name, max_iterations=1).invert(latents().double())
    assert result.method == name
    lost = float((denoise(result, mild_network) - latents().double()).abs().max())
    assert (lost < 1e-6) == method.exact


def test_strength_is_a_line_between_the_noises_and_may_be_a_map() -> None:
    z_0 = latents()
    result = Inverter(TABLE, mild_network, tolerance=1e-6, max_iterations=60).invert(z_0)

    def target(z: Tensor, i: int, index: Tensor) -> Tensor:
        return mild_network(z, i, index) + 0.3

    halves = torch.zeros(1, 1, 4, 5)
    halves[..., 3:] = 1.0
    mapped = denoise(result, target, strength=halves)
    full = denoise(result, target)
    assert (mapped[..., :3] - z_0[..., :3]).abs().max() < 1e-4
    # The toy network is local, so each half is what it would be alone.
    torch.testing.assert_close(mapped[..., 3:], full[..., 3:], rtol=1e-4, atol=1e-4)
    assert (full - z_0).abs().max() > 0.1


def test_partial_inversion_stops_at_its_depth() -> None:
    result = Inverter(TABLE, mild_network, tolerance=1e-7, max_iterations=60).invert(
        latents(), depth=6
    )
    assert result.trajectory.shape == (7, 2, 3, 4, 5)
    assert result.noise.shape == (6, 2, 3, 4, 5)
    assert result.trace.nfe.shape == (6, 2)
    assert (denoise(result, mild_network) - latents()).abs().max() < 1e-4


@pytest.mark.parametrize("depth", [0, 11])
def test_a_depth_out_of_range_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match="1 to 10"):
        Inverter(TABLE, mild_network).invert(latents(), depth=depth)


def test_half_precision_networks_leave_latents_in_single() -> None:
    def half(z: Tensor, i: int, index: Tensor) -> Tensor:
        return mild_network(z.half(), i, index)

    result = Inverter(TABLE, half).invert(latents().half())
    assert result.trajectory.dtype == result.noise.dtype == torch.float32


def test_guided_evaluations_count_twice() -> None:
    once = Inverter(TABLE, mild_network, max_iterations=3, tolerance=1e-9).invert(latents())
    twice = Inverter(TABLE, mild_network, max_iterations=3, tolerance=1e-9, evaluations=2).invert(
        latents()
    )
    assert torch.equal(2 * once.trace.nfe, twice.trace.nfe)


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"solver": "newton"}, "newton"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"criterion": "luck"}, "luck"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        Inverter(TABLE, mild_network, **settings)  # type: ignore[arg-type]


def test_a_saved_inversion_is_the_same_when_loaded(tmp_path: Path) -> None:
    result = Inverter(TABLE, mild_network, max_iterations=3).invert(latents())
    result.attention["layer|cross|query|1"] = torch.randn(2, 2, 20, 8)
    result.save(tmp_path / "inversion.safetensors")
    loaded = InversionResult.load(tmp_path / "inversion.safetensors")
    assert loaded.table == result.table
    assert torch.equal(loaded.trajectory, result.trajectory)
    assert torch.equal(loaded.noise, result.noise)
    assert torch.equal(
        loaded.attention["layer|cross|query|1"], result.attention["layer|cross|query|1"]
    )
    for name, value in vars(result.trace).items():
        torch.testing.assert_close(getattr(loaded.trace, name), value, equal_nan=True)
    assert (denoise(loaded, mild_network, strength=0.0) - latents()).abs().max() < 1e-5


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no inversion")
    with pytest.raises(ValueError, match="not a safetensors file"):
        InversionResult.load(tmp_path / "text")


def test_the_trace_names_its_worst_residual_and_is_plain_data() -> None:
    result = Inverter(TABLE, mild_network, max_iterations=3, tolerance=1e-9).invert(latents())
    last = result.trace.residuals[:, -1]
    assert result.trace.worst_residual == pytest.approx(float(last.max()))
    plain = result.trace.to_dict()
    assert plain["nfe"] == result.trace.nfe.tolist()
    unmeasured = Inverter(TABLE, mild_network, solver="ddim").invert(latents()).trace
    assert math.isnan(unmeasured.worst_residual)
    assert unmeasured.to_dict()["residuals"][0][0] == [None, None]


@pytest.mark.parametrize("solver", ["fixed-point", "anderson"])
def test_a_second_path_changes_no_solution_and_is_counted(solver: str) -> None:
    settings = {"tolerance": 1e-6, "max_iterations": 60}
    single = Inverter(TABLE, mild_network, solver=solver, **settings).invert(latents().double())
    paired = Inverter(
        TABLE, mild_network, solver=solver, criterion="inter-path", **settings
    ).invert(latents().double())
    torch.testing.assert_close(paired.trajectory, single.trajectory, rtol=1e-4, atol=1e-4)
    assert paired.trace.converged.all()
    assert torch.equal(paired.trace.nfe, 2 * paired.trace.iterations)
    assert single.trace.inter.isnan().all()
    # The first path starts at DDIM's guess, the second elsewhere: they come to one point.
    assert (paired.trace.inter[:, 0] > paired.trace.last_residuals).all()


def test_a_sample_is_inverted_under_two_paths_as_it_would_be_alone() -> None:
    settings = {"tolerance": 1e-6, "max_iterations": 60, "criterion": "inter-path"}
    both = Inverter(TABLE, mild_network, **settings).invert(latents())
    alone = Inverter(TABLE, mild_network, **settings).invert(latents()[1:])
    torch.testing.assert_close(both.trajectory[:, 1:], alone.trajectory)
    assert torch.equal(both.trace.nfe[:, 1:], alone.trace.nfe)


def test_easyinv_blends_in_its_share_of_the_steps_and_is_ddim_elsewhere() -> None:
    plain = Inverter(TABLE, mild_network, solver="ddim").invert(latents())
    eased = Inverter(TABLE, mild_network, solver="easyinv").invert(latents())
    # N = 10: 0.5 < i < 2.5.
    everyone = torch.arange(2)
    for i in range(1, 11):
        previous = eased.trajectory[i - 1]
        explicit = TABLE.inverse_step(previous, mild_network(previous, i, everyone), i)
        expected = 0.5 * (explicit + previous) if i <= 2 else explicit
        torch.testing.assert_close(eased.trajectory[i], expected)
    assert torch.equal(eased.trace.nfe, plain.trace.nfe)
    assert not torch.equal(eased.latents, plain.latents)


def test_later_steps_are_left_when_what_was_added_to_the_map_is_hardly_seen() -> None:
    settings = {"tolerance": 1e-4, "max_iterations": 60}
    strict = Inverter(TABLE, mild_network, **settings).invert(latents())
    # Picard adds nothing to f(z): one evaluation a step is all it takes after the first.
    picard = Inverter(TABLE, mild_network, criterion="reconstruction", **settings).invert(latents())
    assert torch.equal(picard.trace.nfe[0], strict.trace.nfe[0])
    assert (picard.trace.nfe[1:] == 1).all()
    assert picard.trace.converged.all()
    # A relaxed update adds something, and more than one evaluation is made where it is much.
    settings = {"solver": "anderson", "relaxation": "spectral", "max_iterations": 60}
    nfe = []
    for tolerance in (1e-1, 1e-3, 1e-6):
        relaxed = Inverter(
            TABLE, mild_network, criterion="reconstruction", tolerance=tolerance, **settings
        ).invert(latents())
        nfe.append(int(relaxed.trace.nfe[1:].sum()))
    assert 18 == nfe[0] < nfe[1] < nfe[2]


def test_steps_are_solved_anew_from_where_the_inversion_was() -> None:
    """The exact steps of a rough inversion are its own, not those of the exact inversion."""
    rough = Inverter(TABLE, mild_network, solver="ddim").invert(latents().double())
    settings = StepSettings(1e-13, 200, "intra-path", "previous", "none")
    solved, trace = solve_steps(rough, mild_network, settings, solver="fixed-point")
    assert solved.shape == rough.trajectory[1:].shape
    assert trace.converged.all()
    everyone = torch.arange(2)
    for i in range(1, 11):
        A, B = TABLE.coefficients(i)
        noise = mild_network(solved[i - 1], i, everyone)
        implicit = A * rough.trajectory[i - 1] + B * noise
        assert (implicit - solved[i - 1]).abs().max() < 1e-11
    assert (solved - rough.trajectory[1:]).abs().max() > 1e-3
