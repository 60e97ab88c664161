"""Photos that are much longer than wide have a limited working size."""

from __future__ import annotations

import numpy as np
import pytest

from dehaze.pipelines.dehaze import DehazePipeline


@pytest.mark.parametrize(
    ("size", "working"),
    [
        # The random model's short side is 16, and eight of them are 128.
        ((40, 60), (16, 24)),
        ((100, 800), (16, 128)),
        ((800, 100), (128, 16)),
        ((100, 1600), (8, 128)),
        ((1, 500), (1, 128)),
        ((20000, 20), (128, 1)),
    ],
)
def test_the_long_side_is_at_most_eight_short_sides(
    pipeline: DehazePipeline, size: tuple[int, int], working: tuple[int, int]
) -> None:
    photo = np.zeros((*size, 3), np.float32)
    assert pipeline.codec.working_size(photo) == working
    padded = pipeline.codec.padded_size(photo)
    multiple = pipeline.description.size_multiple
    assert min(padded) >= pipeline.description.short_side
    assert all(side % multiple == 0 for side in padded)
    assert all(side >= seen for side, seen in zip(padded, working, strict=True))


@pytest.mark.parametrize("size", [(1, 500), (600, 3)])
@pytest.mark.parametrize("recovery", ["physics", "affine", "none"])
def test_a_strip_comes_back_at_its_own_size(
    pipeline: DehazePipeline, size: tuple[int, int], recovery: str
) -> None:
    photo = np.random.default_rng(0).uniform(0.3, 0.9, (*size, 3)).astype(np.float32)
    result = pipeline(photo, num_inference_steps=1, solver="ddim", recovery=recovery)
    assert result.image.shape == photo.shape
    assert result.attention.shape == size
    assert np.isfinite(result.image).all()
    assert np.isfinite(result.attention).all()
