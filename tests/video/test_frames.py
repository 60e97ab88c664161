"""Frames in sequence: what each frame takes from the one before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clips import moving_scene
from numpy.typing import NDArray

from dehaze import ranges
from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.prompts import WordError
from dehaze.registry import UnknownNameError
from dehaze.video.frames import FrameDehazer, FrameSettings

Array = NDArray[np.float32]
QUICK = {"num_inference_steps": 1, "solver": "fixed-point", "max_iterations": 2}


def test_the_first_frame_comes_out_as_a_photo_does(pipeline: DehazePipeline, photo: Array) -> None:
    alone = pipeline(photo, **QUICK)
    result = FrameDehazer(pipeline, FrameSettings(**QUICK))(photo, 0.0)
    np.testing.assert_allclose(result.image, alone.image, atol=1e-6)
    assert result.evaluations == alone.nfe
    assert result.is_first


def test_a_frame_of_a_still_camera_takes_fewer_evaluations(
    pipeline: DehazePipeline, photo: Array
) -> None:
    dehazer = FrameDehazer(pipeline, FrameSettings(tolerance=0.02))
    first, second, third = (dehazer(photo, n / 25) for n in range(3))
    assert third.evaluations < second.evaluations == first.evaluations
    assert not third.is_first


def test_single_iterations_do_not_start_from_the_frame_before(
    pipeline: DehazePipeline, photo: Array
) -> None:
    # Every step meets this tolerance, but to start from the last frame would save nothing.
    settings = FrameSettings(
        **QUICK | {"max_iterations": 1, "criterion": "residual"}, tolerance=1.0
    )
    dehazer = FrameDehazer(pipeline, settings)
    paths = []
    for n in range(4):
        dehazer(photo, n / 25)
        assert dehazer.memory is not None
        paths.append(dehazer.memory.start.trajectory)
    assert all(torch.equal(path, paths[0]) for path in paths)


def test_steps_that_are_cut_off_do_not_show_the_frame_before(
    pipeline: DehazePipeline, photo: Array
) -> None:
    settings = FrameSettings(**QUICK, tolerance=1e-6)
    other = np.ascontiguousarray(1.0 - photo[::-1])
    alone = FrameDehazer(pipeline, settings)(other, 0.0)
    dehazer = FrameDehazer(pipeline, settings)
    dehazer(photo, 0.0)
    after_cut = dehazer(other, 0.04)
    assert after_cut.is_first
    np.testing.assert_array_equal(after_cut.image, alone.image)


def test_a_frame_of_another_size_begins_anew(pipeline: DehazePipeline, photo: Array) -> None:
    dehazer = FrameDehazer(pipeline, FrameSettings(**QUICK))
    dehazer(photo, 0.0)
    smaller = np.ascontiguousarray(photo[:, :40])
    result = dehazer(smaller, 0.04)
    assert result.is_first
    assert result.image.shape == smaller.shape


@pytest.mark.parametrize("solver", ["ddim", "edict"])
def test_a_solver_that_iterates_nothing_goes_on(
    pipeline: DehazePipeline, photo: Array, solver: str
) -> None:
    dehazer = FrameDehazer(pipeline, FrameSettings(num_inference_steps=1, solver=solver))
    images = [dehazer(frame, n / 25).image for n, frame in enumerate(moving_scene(photo, 2))]
    assert all(np.isfinite(image).all() for image in images)


def test_strength_zero_gives_the_frames_back(pipeline: DehazePipeline, photo: Array) -> None:
    settings = FrameSettings(**QUICK, strength=0.0)
    dehazer = FrameDehazer(pipeline, settings)
    for n, frame in enumerate(moving_scene(photo, 2)):
        np.testing.assert_allclose(dehazer(frame, n / 25).image, frame, atol=0.01)


def test_exposure_lightens_and_its_slope_is_kept(pipeline: DehazePipeline, photo: Array) -> None:
    hazy = moving_scene(photo, 1)[0]
    dark, light = (
        FrameDehazer(pipeline, FrameSettings(**QUICK, exposure=share)) for share in (0.0, 1.0)
    )
    assert light(hazy, 0.0).image.mean() > dark(hazy, 0.0).image.mean() + 0.05
    assert dark.memory is not None
    assert light.memory is not None
    assert dark.memory.slope == 1.0
    first = light.memory.slope
    # Each of the first two frames has half the weight; the logarithm of the slope is smoothed.
    light(np.clip(hazy * np.float32(1.1), 0.0, 1.0), 0.04)
    assert light.memory.past.frames == 2
    assert light.memory.slope != first


def test_the_slope_of_exposure_is_smoothed(
    pipeline: DehazePipeline, photo: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    slopes = iter([2.0, 3.0])
    monkeypatch.setattr("dehaze.video.frames.slope_to_photo", lambda scene, mean: next(slopes))
    dehazer = FrameDehazer(pipeline, FrameSettings(**QUICK, exposure=1.0))
    for time in (0.0, 0.04):
        dehazer(moving_scene(photo, 1)[0], time)
    assert dehazer.memory is not None
    assert dehazer.memory.slope == pytest.approx(6.0**0.5)


def test_settings_out_of_range_are_refused(pipeline: DehazePipeline) -> None:
    with pytest.raises(ranges.RangeError, match="strength"):
        FrameSettings(strength=3.0)
    with pytest.raises(UnknownNameError, match="embedding"):
        FrameSettings(null_text="empty")
    with pytest.raises(WordError, match="smoke"):
        FrameDehazer(pipeline, FrameSettings(word="smoke"))
