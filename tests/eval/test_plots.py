"""``dehaze.eval.plots``: the plots show the inversion's own data."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dehaze.eval.plots import (
    PLOTS,
    draw_contraction,
    draw_reconstruction,
    draw_residuals,
    draw_trajectories,
    evenly_spread,
    principal_plane,
)
from dehaze.eval.probes import picard_paths
from dehaze.pipelines.dehaze import DehazePipeline

Array = NDArray[np.float32]


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
@pytest.mark.parametrize("panels", [1, 4, 10])
def test_shown_steps_reach_from_the_first_to_the_last(steps: int, panels: int) -> None:
    shown = evenly_spread(steps, panels)
    assert len(shown) == min(steps, panels)
    assert shown[0] == 1
    assert set(shown) <= set(range(1, steps + 1))
    if panels > 1:
        assert shown[-1] == steps


def test_paths_in_a_plane_keep_their_distances() -> None:
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(6, 3, 2))
    axes, _ = np.linalg.qr(rng.normal(size=(40, 2)))
    plane, held = principal_plane(flat @ axes.T + 5.0)
    assert held == pytest.approx(1.0)
    assert np.abs(plane[-1, 0]).max() < 1e-9
    np.testing.assert_allclose(
        np.linalg.norm(plane, axis=2), np.linalg.norm(flat - flat[-1, :1], axis=2)
    )


def test_the_plane_states_its_share_of_the_variance() -> None:
    paths = np.random.default_rng(0).normal(size=(20, 4, 100))
    assert 0.02 < principal_plane(paths)[1] < 0.2
    assert principal_plane(np.zeros((3, 2, 1)))[0].shape == (3, 2, 2)


@pytest.mark.slow
def test_paths_of_a_contractive_step_come_together(pipeline: DehazePipeline, photo: Array) -> None:
    inversion = pipeline.invert(photo, num_inference_steps=4, tolerance=1e-6, max_iterations=40)
    paths = picard_paths(pipeline, inversion, 3, starts=4, iterations=30)
    assert paths.shape == (31, 4, *inversion.latents.shape[1:])
    assert (paths[0, 0] == inversion.trajectory[2, 0]).all()
    apart = (paths - paths[:, :1]).flatten(2).norm(dim=2)
    assert (apart[0, 1:] > 1.0).all()
    assert apart[-1].max() < 0.05 * apart[0, 1:].min()
    solution = inversion.trajectory[3, 0]
    assert (paths[-1] - solution).abs().max() < 0.05


def test_every_picture_is_one(pipeline: DehazePipeline, photo: Array) -> None:
    pytest.importorskip("matplotlib")
    inversion = pipeline.invert(photo, num_inference_steps=4, criterion="inter-path")

    def paths(i: int) -> NDArray[np.float64]:
        found = picard_paths(pipeline, inversion, i, starts=3, iterations=3)
        return found.flatten(2).double().numpy()

    for data in (
        draw_residuals(inversion.trace, inversion.table.timesteps),
        draw_trajectories(inversion, paths),
        draw_contraction(inversion.trace, inversion.table.timesteps),
        draw_reconstruction(photo, photo[::-1], 12.3),
    ):
        assert np.asarray(Image.open(io.BytesIO(data)).convert("L")).std() > 5


@pytest.mark.parametrize("error", [0.3, 3e-3, 3e-5])
def test_a_difference_is_enlarged_until_it_can_be_seen(photo: Array, error: float) -> None:
    pytest.importorskip("matplotlib")
    moved = photo + np.float32(error) * (np.indices(photo.shape[:2]).sum(0) % 2)[..., None]
    drawn = np.asarray(Image.open(io.BytesIO(draw_reconstruction(photo, moved, 30.0))).convert("L"))
    right = drawn[60:, -drawn.shape[1] // 3 :]
    assert right[right < 250].std() > 5


def test_the_extra_that_is_advised_exists() -> None:
    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    assert PLOTS == "pip install 'dehaze-diffusion[plots]'"
    assert "\nplots = [" in text
