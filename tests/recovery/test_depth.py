"""Relative depth: the optical depth of haze, and where it is unknown."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.recovery.depth import MOST_DEPTH, as_levels, relative_depth
from dehaze.recovery.settings import RECOVERY

Array = NDArray[np.float32]


def test_depth_is_distance_times_beta_in_even_haze() -> None:
    beta, distance = 0.8, np.linspace(0.1, 2.0, 64, dtype=np.float32)[None].repeat(48, axis=0)
    depth = relative_depth(np.exp(-beta * distance))
    np.testing.assert_allclose(depth[:, 2:-2], beta * distance[:, 2:-2], atol=0.02)


def test_depth_is_not_known_where_haze_is_densest() -> None:
    transmission = np.full((40, 60), 0.5, np.float32)
    transmission[:, 30:] = RECOVERY.least_transmission
    depth = relative_depth(transmission)
    assert np.isnan(depth[:, 35:]).all()
    assert depth[:, :25] == pytest.approx(-np.log(0.5), abs=1e-3)
    levels = np.round(as_levels(depth) * 65535)
    assert (levels[:, 35:] == 65535).all()
    assert levels[0, 0] == round(-np.log(0.5) / MOST_DEPTH * 65534)


@pytest.mark.parametrize("recovery", ["physics", "affine"])
def test_a_result_gives_its_depth_at_the_photos_size(
    pipeline: DehazePipeline, photo: Array, recovery: str
) -> None:
    result = pipeline(photo, recovery=recovery)
    if recovery == "affine":
        assert result.transmission is None
        return
    assert result.transmission is not None
    depth = relative_depth(result.transmission)
    assert depth.shape == photo.shape[:2]
    known = ~np.isnan(depth)
    # It is the depth of t itself.
    assert (depth[known] >= -np.log(result.transmission[known]) - 0.05).mean() > 0.95
