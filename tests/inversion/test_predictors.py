from __future__ import annotations

import math

import pytest
import torch
from schedules import table_of
from torch import Tensor

from dehaze.inversion import Inverter, list_predictors
from dehaze.inversion.predictors import explicit_step, get_predictor


def network(z: Tensor, i: int, index: Tensor) -> Tensor:
    return torch.tanh(0.5 * z + 0.1 * i)


def latents(batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, 4, 5, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "noisy-end"])
@pytest.mark.parametrize("steps", [4, 7, 10, 50])
def test_with_the_true_error_the_explicit_step_is_the_fixed_point(steps: int, spacing: str) -> None:
    table = table_of(steps, spacing)
    result = Inverter(table, network, tolerance=1e-15, max_iterations=200).invert(latents())
    clean = result.trajectory[0]
    for i in range(2, steps + 1):
        z, previous = result.trajectory[i], result.trajectory[i - 1]
        noise = result.noise[i - 1]
        error = (z - table.sigma(i) * noise) / math.sqrt(table.alphas[i]) - clean
        assert (explicit_step(table, i, previous, clean + error) - z).abs().max() < 1e-12


@pytest.mark.parametrize("predictor", ["ife", "extrapolated"])
def test_where_the_predicted_picture_stays_the_estimate_is_the_solution(predictor: str) -> None:
    """eps(z, i) = (z - sqrt(a_i) x) / s_i for one x: then z_i = sqrt(a_i) x + s_i eps_1."""
    table = table_of(10)
    picture, noise = 0.8 * latents(), latents().flip(-1)
    line = [math.sqrt(table.alphas[i]) * picture + table.sigma(i) * noise for i in range(11)]
    for i in range(2, 11):
        guess = get_predictor(predictor).predict(table, i, line[:i], [noise] * (i - 1))
        assert (guess - line[i]).abs().max() < 1e-12
        assert (line[i - 1] - line[i]).abs().max() > 0.01


def test_a_trend_of_the_predicted_picture_is_followed() -> None:
    """x0hat on a straight line over the angle: the guess is the solution."""
    table = table_of(10, "noisy-end")
    still, drift = latents(), latents().flip(-1)
    angles = [math.atan2(table.sigma(i), math.sqrt(table.alphas[i])) for i in range(11)]
    pictures = [still + angle * drift for angle in angles]
    trajectory = [pictures[0]]
    noise: list[Tensor] = []
    for i in range(1, 11):
        if i > 2:
            ife, extrapolated = (
                get_predictor(name).predict(table, i, trajectory, noise)
                for name in ("ife", "extrapolated")
            )
            solution = explicit_step(table, i, trajectory[-1], pictures[i])
            assert (ife - solution).abs().max() > 1e-5
            torch.testing.assert_close(extrapolated, solution, rtol=1e-9, atol=1e-12)
            trajectory.append(solution)
        else:
            trajectory.append(math.sqrt(table.alphas[i]) * pictures[i] + table.sigma(i) * still)
        root = math.sqrt(table.alphas[i])
        noise.append((trajectory[i] - root * pictures[i]) / table.sigma(i))


def test_the_first_step_has_no_error_to_take() -> None:
    guess = get_predictor("ife").predict(table_of(10), 1, [latents()], [])
    assert torch.equal(guess, latents())


@pytest.mark.parametrize("predictor", list_predictors())
def test_a_predictor_changes_the_start_and_not_the_solution(predictor: str) -> None:
    settings = {"tolerance": 1e-13, "max_iterations": 300}
    plain = Inverter(table_of(10), network, **settings).invert(latents())
    guessed = Inverter(table_of(10), network, predictor=predictor, **settings).invert(latents())
    torch.testing.assert_close(guessed.trajectory, plain.trajectory, rtol=1e-10, atol=1e-10)


def test_the_estimate_saves_evaluations_on_a_fine_schedule() -> None:
    settings = {"tolerance": 1e-4, "max_iterations": 30}
    plain = Inverter(table_of(50), network, **settings).invert(latents())
    guessed = Inverter(table_of(50), network, predictor="ife", **settings).invert(latents())
    assert guessed.trace.nfe.sum() < 0.8 * plain.trace.nfe.sum()


def test_an_unknown_predictor_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"oracle.*ife"):
        Inverter(table_of(10), network, predictor="oracle")
