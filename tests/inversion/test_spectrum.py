from __future__ import annotations

import math

import pytest
import torch
from schedules import table_of
from torch import Tensor

from dehaze.inversion.spectrum import cosines, filtered, gain_to_picture, power, transformed


def latents(batch: int = 2, height: int = 6, width: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, height, width, generator=generator, dtype=torch.float64)


def wave(row: int, column: int) -> Tensor:
    """Of the transform, of mean square 1 / (H W), in each of 3 channels."""
    return torch.outer(cosines(6)[row], cosines(8)[column]).expand(1, 3, -1, -1).contiguous()


@pytest.mark.parametrize("size", [1, 2, 7, 24])
def test_the_cosine_transform_is_orthonormal_and_its_first_row_the_mean(size: int) -> None:
    rows = cosines(size)
    torch.testing.assert_close(rows @ rows.T, torch.eye(size, dtype=torch.float64))
    torch.testing.assert_close(rows[0], torch.full((size,), size**-0.5, dtype=torch.float64))


def test_each_wave_is_multiplied_by_its_own_factor_in_each_sample() -> None:
    factors = torch.rand(2, 1, 6, 8, generator=torch.Generator().manual_seed(1)).double()
    both = torch.cat([wave(2, 5), wave(0, 1)])
    expected = torch.cat([factors[0, 0, 2, 5] * wave(2, 5), factors[1, 0, 0, 1] * wave(0, 1)])
    torch.testing.assert_close(filtered(both, factors), expected)
    torch.testing.assert_close(filtered(latents(), torch.ones(6, 8)), latents())


def test_the_power_of_all_waves_is_that_of_the_latents() -> None:
    torch.testing.assert_close(power(latents()).mean((1, 2, 3)), latents().square().mean((1, 2, 3)))


def test_the_power_is_that_of_the_waves_of_one_length() -> None:
    found = power(wave(0, 4))[0, 0]
    # (3, 0) and (2, 3) are 4 and 4.01 cycles of the longer side long, as (0, 4) is.
    same = found > 1e-9
    assert torch.stack([same[0, 4], same[3, 0], same[2, 3]]).all()
    assert not torch.stack([same[0, 3], same[0, 5], same[2, 2]]).any()
    torch.testing.assert_close(found[same], found[0, 4].expand(int(same.sum())))


def test_a_picture_without_a_mean_is_still_expected_to_have_one() -> None:
    found = power(wave(0, 1))[0, 0]
    assert found[0, 0] == found[0, 1] > 0.0


def test_the_gain_is_that_of_the_way_back_where_the_network_is_the_wiener_filter() -> None:
    """A direction of Gaussian pictures keeps its quantile, in the limit of many steps."""
    table = table_of(500)
    clean = 20.0 * wave(0, 1) + 5.0 * wave(2, 2) + latents(1)
    variance = power(clean)
    for start in (50, 250, 450):
        gain = gain_to_picture(table, start, clean)
        error = torch.ones(1, 1, 6, 8, dtype=torch.float64)
        for i in range(start, 0, -1):
            alpha, sigma = table.alphas[i], table.sigma(i)
            kept = math.sqrt(alpha) * variance / (alpha * variance + sigma**2)
            noise = (error - math.sqrt(alpha) * kept * error) / sigma
            error = table.denoise_step(error, noise, i)
        torch.testing.assert_close(error, gain, rtol=0.05, atol=0.0)


def test_the_transform_is_that_of_each_channel_alone() -> None:
    one = torch.zeros(1, 3, 6, 8, dtype=torch.float64)
    one[:, 1] = wave(3, 2)[:, 1]
    found = transformed(one)
    assert float(found[0, 1, 3, 2]) == pytest.approx(1.0)
    assert float(found.abs().sum()) == pytest.approx(1.0)
