from __future__ import annotations

import math

import pytest
import torch
from schedules import FunctionNetwork, mild, table_of
from torch import Tensor

from dehaze.inversion import PREDICTORS, InversionSettings, invert
from dehaze.inversion.predictors import explicit_step


def latents(batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, 4, 5, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "noisy-end"])
@pytest.mark.parametrize("steps", [4, 7, 10, 50])
def test_the_explicit_step_with_the_true_error_is_exact(steps: int, spacing: str) -> None:
    table = table_of(steps, spacing)
    settings = InversionSettings(steps=steps, tolerance=1e-15, max_iterations=60)
    result = invert(FunctionNetwork(table, mild), latents(), settings)
    clean = result.trajectory[0]
    for i in range(2, steps + 1):
        z, previous = result.trajectory[i], result.trajectory[i - 1]
        noise = result.noise[i - 1]
        error = (z - table.sigma(i) * noise) / math.sqrt(table.alphas[i]) - clean
        assert (explicit_step(table, i, previous, clean + error) - z).abs().max() < 1e-12


@pytest.mark.parametrize("predictor", ["ife", "extrapolated"])
def test_the_estimate_solves_where_the_picture_stays(predictor: str) -> None:
    """eps(z, i) = (z - sqrt(a_i) x) / s_i for one x: then z_i = sqrt(a_i) x + s_i eps_1."""
    table = table_of(10)
    picture, noise = 0.8 * latents(), latents().flip(-1)
    line = [math.sqrt(table.alphas[i]) * picture + table.sigma(i) * noise for i in range(11)]
    for i in range(2, 11):
        guess = PREDICTORS.get(predictor).predict(table, i, line[:i], [noise] * (i - 1))
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
                PREDICTORS.get(name).predict(table, i, trajectory, noise)
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
    guess = PREDICTORS.get("ife").predict(table_of(10), 1, [latents()], [])
    assert torch.equal(guess, latents())


@pytest.mark.parametrize("predictor", PREDICTORS.names())
def test_a_predictor_changes_the_start_and_not_the_solution(predictor: str) -> None:
    network = FunctionNetwork(table_of(10), mild)
    settings = InversionSettings(steps=10, tolerance=1e-13, max_iterations=300).changed(
        solver="fixed-point"
    )
    plain = invert(network, latents(), settings)
    guessed = invert(network, latents(), settings.changed(predictor=predictor))
    torch.testing.assert_close(guessed.trajectory, plain.trajectory, rtol=1e-10, atol=1e-10)


def test_the_estimate_saves_evaluations_on_a_fine_schedule() -> None:
    network = FunctionNetwork(table_of(50), mild)
    settings = InversionSettings(steps=50, max_iterations=30).changed(solver="fixed-point")
    plain = invert(network, latents(), settings)
    guessed = invert(network, latents(), settings.changed(predictor="ife"))
    assert guessed.trace.nfe.sum() < 0.8 * plain.trace.nfe.sum()


def test_an_unknown_predictor_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"oracle.*ife"):
        PREDICTORS.get("oracle")
