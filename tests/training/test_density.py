"""The density of a rendered pair, and the agreement of two maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from dehaze.models.codec import CellsCodec
from training.density import correlation, density_of


def test_density_is_read_from_a_pair_of_one_transmission() -> None:
    rng = np.random.default_rng(0)
    clear = torch.from_numpy(rng.random((2, 9, 32, 48)).astype(np.float32))
    codec, airlight = CellsCodec(), torch.tensor([0.8, 0.9, 0.7]).repeat(3)[:, None, None]
    for t in (0.3, 0.8):
        hazy = clear * t + airlight * (1.0 - t)
        latents = [codec.unshuffle(cells * 2 - 1) * 2 for cells in (hazy, clear)]
        assert density_of(*latents) == pytest.approx(1.0 - t, abs=0.02)


def test_density_is_that_of_each_place() -> None:
    rng = np.random.default_rng(0)
    clear = torch.from_numpy(rng.random((1, 9, 32, 48)).astype(np.float32))
    t = torch.linspace(0.9, 0.2, 48).expand(1, 1, 32, 48)
    codec = CellsCodec()
    hazy = clear * t + 0.8 * (1.0 - t)
    found = density_of(*(codec.unshuffle(cells * 2 - 1) * 2 for cells in (hazy, clear)))
    assert correlation(found, 1.0 - functional.avg_pool2d(t, 2)[:, 0]) > 0.97


def test_correlation_is_pearsons() -> None:
    first, second = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    expected = [
        np.corrcoef(a.flatten(), b.flatten())[0, 1] for a, b in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(correlation(first, second), expected, atol=1e-5)
