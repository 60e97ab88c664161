from __future__ import annotations

import math

import pytest
import torch
from schedules import FunctionNetwork, mild, table_of
from torch import Tensor

from dehaze.inversion import InversionResult, InversionSettings, denoise, invert

TABLE = table_of(6, set_alpha_to_one=True)
MILD = FunctionNetwork(TABLE, mild)


def normal(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)


def inverted() -> InversionResult:
    """A rough inversion, whose noise does not lead back to the picture in one step."""
    return invert(MILD, normal(0), InversionSettings(steps=6, max_iterations=2))


def knows(picture: Tensor) -> FunctionNetwork:
    """A network that predicts this picture from any latents."""

    def noise(z: Tensor, i: int, index: Tensor) -> Tensor:
        return (z - math.sqrt(TABLE.alphas[i]) * picture[index]) / TABLE.sigma(i)

    return FunctionNetwork(TABLE, noise)


@pytest.mark.parametrize("steps", [1, 2, 5, 6])
def test_any_number_of_steps_reaches_the_networks_picture(steps: int) -> None:
    picture, network = normal(1), knows(normal(1))
    found = denoise(inverted(), network, steps=steps)
    torch.testing.assert_close(found, picture)
    assert network.calls == list(range(6, 6 - steps, -1))


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_a_leap_blends_the_pictures_themselves(strength: float) -> None:
    inversion, picture = inverted(), normal(1)
    found = denoise(inversion, knows(picture), steps=1, strength=strength)
    expected = (1.0 - strength) * inversion.trajectory[0] + strength * picture
    torch.testing.assert_close(found, expected)


def test_a_leap_blends_by_a_map() -> None:
    inversion, picture = inverted(), normal(1)
    strength = torch.zeros(1, 1, 4, 5, dtype=torch.float64)
    strength[..., :2] = 1.0
    found = denoise(inversion, knows(picture), steps=2, strength=strength)
    torch.testing.assert_close(found[..., 2:], inversion.trajectory[0][..., 2:])
    torch.testing.assert_close(found[..., :2], picture[..., :2])


def test_all_steps_are_the_way_back() -> None:
    inversion = inverted()
    whole = denoise(inversion, MILD, strength=0.5)
    assert torch.equal(denoise(inversion, MILD, strength=0.5, steps=6), whole)
    assert (denoise(inversion, MILD, strength=0.5, steps=5) - whole).abs().max() > 1e-3


def test_a_leap_is_told_as_the_last_step() -> None:
    told: list[int] = []
    denoise(inverted(), MILD, steps=3, on_step=lambda i, z: told.append(i))
    assert told == [6, 5, 1]


@pytest.mark.parametrize("steps", [0, 7])
def test_steps_that_there_are_not_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 6"):
        denoise(inverted(), MILD, steps=steps)


def test_a_sampler_that_undoes_its_own_steps_takes_all() -> None:
    inversion = invert(MILD, normal(0), InversionSettings(steps=6).changed(solver="edict"))
    assert torch.equal(denoise(inversion, MILD, steps=6), denoise(inversion, MILD))
    with pytest.raises(ValueError, match="edict goes back by its own steps"):
        denoise(inversion, MILD, steps=1)
