from __future__ import annotations

from pathlib import Path

import torch

from training.noise import FLOOR, GaussianNoise


def test_the_noise_of_a_gaussian_is_white() -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=generator)
    white = torch.randn(40, 6, 16, 16, generator=generator)
    latents = torch.einsum("dc,bchw->bdhw", mixing, white) + 3.0
    noise = GaussianNoise.of(latents)(latents)
    rows = noise.permute(0, 2, 3, 1).reshape(-1, 6)
    covariance = torch.cov(rows.T)
    # Short of one by what the floor takes.
    values = torch.linalg.eigvalsh(torch.cov(latents.permute(0, 2, 3, 1).reshape(-1, 6).T))
    expected = (values / (values + FLOOR)).sort().values
    torch.testing.assert_close(torch.linalg.eigvalsh(covariance), expected, atol=0.01, rtol=0.01)
    assert rows.mean(0).abs().max() < 1e-3


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    latents = torch.randn(4, 3, 8, 8)
    noise = GaussianNoise.of(latents)
    noise.save(tmp_path / "noise.npz")
    assert torch.equal(GaussianNoise.load(tmp_path / "noise.npz")(latents), noise(latents))
