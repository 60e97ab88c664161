"""ReNoise with its regularisation, against its published code written down anew."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from schedules import FunctionNetwork, mild, table_of
from torch import Tensor

from dehaze.inversion import InversionSettings, denoise, invert
from dehaze.inversion.renoise import autocorrelation, patch_divergence, regularised

TABLE = table_of(4)
SETTINGS = InversionSettings(steps=4).changed(solver="renoise-regularised", max_iterations=10)


def latents(batch: int = 1, height: int = 10, width: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 4, height, width, generator=generator, dtype=torch.float64)


def divergence_by_hand(noise: Tensor, reference: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for channel in range(4):
        for top in range(0, noise.shape[2] - 3, 4):
            for left in range(0, noise.shape[3] - 3, 4):
                one, other = (
                    each[0, channel, top : top + 4, left : left + 4] for each in (noise, reference)
                )
                ratio = (other.var() + 1e-6) / (one.var() + 1e-6)
                apart = one.var() + (one.mean() - other.mean()) ** 2
                total = total + abs(torch.log(ratio) + apart / (other.var() + 1e-6) - 1)
    return total


def correlation_by_hand(noise: Tensor, generator: torch.Generator) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for channel in noise[0]:
        while True:
            height, width = channel.shape
            shift = int(torch.randint(0, height // 2, (1,), generator=generator))
            rows, columns = torch.arange(height), torch.arange(width)
            total = total + (channel * channel[(rows - shift) % height]).mean() ** 2
            total = total + (channel * channel[:, (columns - shift) % width]).mean() ** 2
            if height <= 8:
                break
            even = channel[: height // 2 * 2, : width // 2 * 2]
            channel = even.reshape(height // 2, 2, width // 2, 2).mean((1, 3))
    return total


def regularised_by_hand(noise: Tensor, reference: Tensor, generator: torch.Generator) -> Tensor:
    for _ in range(4):
        given = noise.clone().requires_grad_()
        divergence_by_hand(given, reference).backward()
        assert given.grad is not None
        noise = noise - 0.065 * given.grad.clip(-100, 100)
        for _ in range(5):
            given = noise.clone().requires_grad_()
            correlation_by_hand(given, generator).backward()
            assert given.grad is not None
            noise = noise - 20.0 * given.grad / 5
    return noise


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_losses_are_those_of_the_code() -> None:
    noise, reference = latents(), 0.7 * latents().flip(3) + 0.1
    torch.testing.assert_close(
        patch_divergence(noise, reference), divergence_by_hand(noise, reference)
    )
    for seed in range(3):
        torch.testing.assert_close(
            autocorrelation(noise, seeded(seed)), correlation_by_hand(noise, seeded(seed))
        )


def test_regularising_takes_the_codes_steps() -> None:
    noise, reference = latents(), 0.7 * latents().flip(3) + 0.1
    torch.testing.assert_close(
        regularised(noise, reference, seeded(3)), regularised_by_hand(noise, reference, seeded(3))
    )


@pytest.mark.parametrize("evaluations", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_the_inversion_is_that_of_the_code(evaluations: int) -> None:
    """Predictions 8 and 9 of ten are averaged; below the timestep 250 the first five of six."""
    counted = FunctionNetwork(TABLE, mild)
    result = invert(counted, latents(), replace(SETTINGS, max_iterations=evaluations))
    z = latents()
    drawn = torch.randn(latents().shape[1:], generator=seeded(0), dtype=torch.float64)
    everyone = torch.arange(1)
    for i in range(1, 5):
        early = TABLE.timestep(i) < 250
        count = min(evaluations, 6) if early else evaluations
        first, last = (0, 5) if early else (count - 2, count)
        a, before = TABLE.alphas[i], TABLE.alphas[i - 1]
        A = math.sqrt(a / before)
        B = math.sqrt(1 - a) - A * math.sqrt(1 - before)
        generator = seeded(i)
        optimal = mild(math.sqrt(a) * latents() + math.sqrt(1 - a) * drawn, i, everyone)
        approximation, predictions = z, []
        for k in range(count):
            noise = mild(approximation, i, everyone)
            if first <= k < last:
                predictions.append(noise)
            if k >= first:
                noise = regularised_by_hand(noise, optimal, generator)
            approximation = A * z + B * noise
        mean = sum(predictions[1:], predictions[0]) / len(predictions)
        z = A * z + B * regularised_by_hand(mean, optimal, generator)
        torch.testing.assert_close(result.trajectory[i], z)
        assert counted.calls.count(i) == count + 1
        assert int(result.trace.nfe[i - 1]) == count + 1
    assert [TABLE.timestep(i) < 250 for i in range(1, 5)] == [True, False, False, False]


def test_the_samples_of_a_batch_are_inverted_as_if_alone() -> None:
    both = invert(FunctionNetwork(TABLE, mild), latents(2), SETTINGS)
    alone = invert(FunctionNetwork(TABLE, mild), latents(2)[:1], SETTINGS)
    torch.testing.assert_close(both.trajectory[:, :1], alone.trajectory)


def test_regularised_noise_is_less_like_its_neighbours() -> None:
    """Regularisation makes the noise whiter, at the cost of reconstruction."""
    smooth = latents() + latents().roll(1, 3)
    changed = regularised(smooth, latents().flip(2), seeded(0))

    def neighbours(noise: Tensor) -> float:
        return float(abs((noise * noise.roll(1, 3)).mean()))

    assert neighbours(changed) < 0.5 * neighbours(smooth)
    network = FunctionNetwork(TABLE, mild)
    lost = {}
    for name in ("renoise", "renoise-regularised"):
        settings = InversionSettings(steps=4).changed(solver=name, max_iterations=10)
        inversion = invert(network, latents(), settings)
        lost[name] = float((denoise(inversion, network) - latents()).abs().max())
    assert lost["renoise"] < 0.1 * lost["renoise-regularised"]


def test_settings_that_cannot_be_regularised_are_refused() -> None:
    with pytest.raises(ValueError, match=r"8 x 8 or more, not 4 x 12: take the solver renoise"):
        regularised(latents(height=4), latents(height=4), seeded(0))
    with pytest.raises(ValueError, match="does not converge here"):
        regularised(1e4 * latents(), latents(), seeded(0))
    with pytest.raises(ValueError, match="criterion has no effect"):
        SETTINGS.changed(solver="renoise-regularised", criterion="residual")
