"""Density and airlight over time, motion, cuts, and the mean of a still scene."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dehaze.recovery.recover import ProxyEstimate
from dehaze.video.smoothing import (
    SECONDS,
    Past,
    begin,
    camera_motion,
    follow,
    follow_motion,
    has_entered,
    is_cut,
    motion,
    weight_of,
)

Array = NDArray[np.float32]
AIRLIGHT = np.float32([0.8, 0.85, 0.9])


def picture(seed: int, height: int = 96, width: int = 144) -> Array:
    """Shapes of several sizes, float32 in [0, 1]."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(rng.random((n, n + n // 2, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
        for n in (4, 12, 30)
    ]
    return np.clip(sum(layers) / 3, 0.0, 1.0).astype(np.float32)


def estimate_of(frame: Array, t: float | Array = 0.5) -> ProxyEstimate:
    transmission = np.broadcast_to(np.float32(t), frame.shape[:2]).astype(np.float32)
    return ProxyEstimate(frame, transmission, AIRLIGHT, np.zeros_like(transmission))


def after(frames: list[Array], t: list[float] | None = None, noise: float = 0.0) -> list[Past]:
    """The pasts after each of these frames, 25 a second."""
    rng = np.random.default_rng(1)
    found: list[Past] = []
    for n, frame in enumerate(frames):
        frame = np.clip(frame + rng.normal(0.0, noise, frame.shape), 0, 1).astype(np.float32)
        estimate = estimate_of(frame, 0.5 if t is None else t[n])
        step = follow(found[-1], frame, estimate, n / 25) if found else begin(frame, estimate, 0.0)
        found.append(step)
    return found


def test_a_density_that_trembles_becomes_steady() -> None:
    rng = np.random.default_rng(0)
    t = list(0.5 * np.exp(rng.normal(0.0, 0.05, 60)))
    smoothed = [float(past.estimate.transmission.mean()) for past in after([picture(0)] * 60, t)]
    assert np.abs(np.diff(smoothed[10:])).mean() < 0.1 * np.abs(np.diff(t[10:])).mean()
    assert np.mean(smoothed[10:]) == pytest.approx(0.5, rel=0.02)


def test_haze_that_changes_is_followed_within_seconds() -> None:
    t = [0.4] * 10 + [0.8] * 75
    smoothed = [float(past.estimate.transmission.mean()) for past in after([picture(0)] * 85, t)]
    assert smoothed[9] == pytest.approx(0.4)
    assert smoothed[-1] == pytest.approx(0.8, abs=0.03)


def test_the_weight_follows_time_and_not_the_count_of_frames() -> None:
    left = (1.0 - weight_of(1 / 50)) ** 2
    assert left == pytest.approx(1.0 - weight_of(1 / 25))
    assert weight_of(SECONDS) == pytest.approx(1.0 - np.exp(-1.0))
    assert weight_of(-1.0) == 0.0


def test_motion_is_found_and_values_move_along() -> None:
    still = picture(0, 120, 180)
    grey = np.round(still.mean(2) * 255).astype(np.uint8)
    before, now = grey[:, 5:], grey[:, :-5]
    flow = motion(np.ascontiguousarray(before), np.ascontiguousarray(now))
    assert np.median(flow[20:-20, 20:-20, 0]) == pytest.approx(-5.0, abs=0.1)
    moved = follow_motion(before, flow)
    inside = np.s_[20:-20, 20:-20]
    assert np.abs(moved - now)[inside].mean() < 0.1 * np.abs(before - 1.0 * now)[inside].mean()


def grey_of(frame: Array, seed: int) -> NDArray[np.uint8]:
    """Luma with a camera's noise."""
    noise = np.random.default_rng(seed).normal(0.0, 2.0, frame.shape[:2])
    return np.round(np.clip(frame.mean(2) * 255.0 + noise, 0, 255)).astype(np.uint8)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_slow_pan_is_found_to_a_fraction_of_a_pixel(step: int) -> None:
    wide = picture(0, 240, 420)
    flow = motion(grey_of(wide[:, :360], 0), grey_of(wide[:, step : step + 360], 1))
    assert np.abs(flow - np.float32([step, 0.0]))[8:-8, 8:-8].mean() < 0.03


def test_a_camera_that_hardly_moves_is_followed() -> None:
    """Over a second, 0.03 pixels a frame would blur the mean by a pixel."""
    wide = picture(0, 240, 420)
    matrix = np.float32([[1.0, 0.0, 0.03], [0.0, 1.0, 0.0]])
    how = cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(wide, matrix, (420, 240), flags=how)
    flow = motion(grey_of(wide[:, 30:390], 0), grey_of(moved[:, 30:390], 1))
    assert np.abs(np.median(flow, (0, 1)) - np.float32([0.03, 0.0])).max() < 0.01


def test_noise_before_a_still_camera_is_no_motion() -> None:
    scene = picture(0, 240, 360)
    assert not motion(grey_of(scene, 0), grey_of(scene, 1)).any()


def test_an_object_keeps_its_own_motion() -> None:
    scenes = []
    for column in (60, 66):
        scenes.append(picture(0, 240, 360))
        scenes[-1][80:170, column : column + 120] = picture(3, 90, 120)
    flow = motion(grey_of(scenes[0], 0), grey_of(scenes[1], 1))
    own = flow[100:150, 90:160]
    assert np.median(own[..., 0]) == pytest.approx(-6.0, abs=0.2)
    assert not flow[:40].any()
    assert not flow[200:].any()


def test_halves_that_move_apart_are_no_camera_motion() -> None:
    flow = np.zeros((96, 144, 2), np.float32)
    flow[:, :72, 0], flow[:, 72:, 0] = 4.0, -4.0
    rng = np.random.default_rng(0)
    flow += rng.normal(0.0, 1.0, flow.shape).astype(np.float32)
    grey = grey_of(picture(0), 0)
    assert camera_motion(grey, grey, flow) is None


def test_pixels_from_outside_the_last_frame_are_found() -> None:
    flow = np.zeros((40, 60, 2), np.float32)
    flow[..., 0] = 5.0
    assert has_entered(flow)[:, -5:].all()
    assert not has_entered(flow)[:, :-5].any()


def test_the_density_follows_a_pan() -> None:
    wide = picture(0, 96, 200)
    dense = np.zeros((96, 200), np.float32)
    dense[:, 100:] = 1.0
    dense = cv2.GaussianBlur(dense, (0, 0), 4)
    found = None
    for n in range(8):
        window = np.s_[:, 4 * n : 4 * n + 150]
        frame = np.ascontiguousarray(wide[window])
        # The density of every second frame is wrong by 0.3.
        estimate = estimate_of(frame, np.exp(-dense[window] - 0.3 * (n % 2)))
        found = (
            begin(frame, estimate, 0.0) if found is None else follow(found, frame, estimate, n / 25)
        )
    assert found is not None
    inside = np.s_[10:-10, 10:-30]
    wanted = dense[:, 28:178] + 0.15
    assert found.frames == 8
    assert np.abs(found.density - wanted)[inside].mean() < 0.03
    assert np.abs(dense[:, :150] + 0.15 - wanted)[inside].mean() > 0.1


@pytest.mark.parametrize("veil", [0.0, 0.7])
def test_another_picture_is_a_cut_and_the_same_is_not(veil: float) -> None:
    rng = np.random.default_rng(0)

    def grey(frame: Array, noise: float = 0.01) -> NDArray[np.uint8]:
        hazy = frame.mean(2) * (1.0 - veil) + 0.8 * veil + rng.normal(0.0, noise, frame.shape[:2])
        return np.round(np.clip(hazy, 0, 1) * 255).astype(np.uint8)

    wide = picture(0, 120, 200)
    first, other = wide[:110, :180], picture(1, 110, 180)
    for following, cut in (
        (first, False),
        (wide[3:113, 8:188], False),
        (np.clip(first * np.float32(1.15), 0.0, 1.0), False),
        (other, True),
    ):
        before, now = grey(first), grey(following)
        assert is_cut(follow_motion(before, motion(before, now)), now) is cut


def test_black_frames_and_those_without_structure_are_no_cut() -> None:
    rng = np.random.default_rng(0)
    for shade in (0, 200):
        frames = [
            np.clip(shade + rng.normal(0, 2, (96, 144)), 0, 255).astype(np.uint8) for _ in range(2)
        ]
        assert not is_cut(frames[0].astype(np.float32), frames[1])


def test_all_begins_anew_at_a_cut_and_at_another_size() -> None:
    pasts = after([picture(0)] * 3 + [picture(1)], [0.5, 0.5, 0.5, 0.9])
    assert [past.frames for past in pasts] == [1, 2, 3, 1]
    assert pasts[-1].estimate.transmission.mean() == pytest.approx(0.9)
    smaller = picture(0, 80, 120)
    assert follow(pasts[2], smaller, estimate_of(smaller), 1.0).frames == 1


def test_a_still_scene_loses_noise_and_keeps_detail() -> None:
    clean = picture(0)
    past = after([clean] * 25, noise=0.02)[-1]
    assert np.abs(past.mean - clean).mean() < 0.4 * 0.02 * np.sqrt(2 / np.pi)


@pytest.mark.parametrize("step", [2.0, 2.5])
def test_a_pan_loses_its_noise_and_keeps_its_detail(step: float) -> None:
    wide = picture(0, 240, 420)
    frames = []
    for n in range(15):
        shift = np.float32([[1, 0, -step * n], [0, 1, 0]])
        frames.append(cv2.warpAffine(wide, shift, (360, 240), flags=cv2.INTER_CUBIC))
    past = after(frames, noise=0.02)[-1]
    assert not past.is_still
    inside = np.s_[:, 8:-20]
    assert np.abs(past.mean - frames[-1])[inside].mean() < 0.6 * 0.02 * np.sqrt(2 / np.pi)


def test_regions_covered_and_uncovered_in_a_pan_have_no_ghost() -> None:
    wide, near = picture(0, 240, 420), picture(3, 120, 120)
    frames = []
    for n in range(12):
        frame = np.ascontiguousarray(wide[:, 3 * n : 3 * n + 360])
        frame[60:180, 120:240] = near
        frames.append(frame)
    past = after(frames, noise=0.01)[-1]
    # Each frame's own noise is .008.
    assert np.abs(past.mean - frames[-1]).mean() < 0.008


def test_regions_that_enter_a_pan_have_no_stripes() -> None:
    wide, found = picture(0, 96, 260), None
    # Every other frame says that there is more haze.
    for n in range(20):
        frame = np.ascontiguousarray(wide[:, 3 * n : 3 * n + 150])
        estimate = estimate_of(frame, 0.5 * math.exp(-0.2 * (n % 2)))
        found = follow(found, frame, estimate, n / 25) if found else begin(frame, estimate, 0.0)
    assert found is not None
    across = found.density[10:-10, 100:].mean(0)
    assert np.abs(np.diff(across)).max() < 0.03


def test_regions_that_enter_a_pan_start_a_new_mean() -> None:
    """It is new even where it looks like its neighbours, whose mean has more frames."""
    wide = picture(3)
    wide[:, 60:] = wide[:, 60:61]
    pasts = after([wide[:, 2 * n : 2 * n + 96] for n in range(8)], noise=0.01)
    # OpenCV 4.13.0.90 has exactly this share.
    assert (pasts[-1].counted[8:-8, -1] == 1.0).mean() >= 0.9
    assert pasts[-1].counted[8:-8, 8:40].mean() > 4.0


def test_a_fade_is_no_noise_and_is_followed() -> None:
    frames = [picture(0) * np.float32(0.4 + 0.01 * n) for n in range(30)]
    past = after(frames, noise=0.01)[-1]
    assert np.abs((past.mean - frames[-1]).mean()) < 0.01


def test_a_moving_object_before_a_still_scene_is_not_averaged() -> None:
    frames = []
    for n in range(12):
        frame = picture(0)
        frame[30:60, 8 * n : 8 * n + 30] = (0.9, 0.1, 0.1)
        frames.append(frame)
    past = after(frames, noise=0.01)[-1]
    moving = np.s_[32:58, 90:116]
    assert np.abs(past.mean - frames[-1])[moving].mean() < 0.01
    # Behind the block the scene returns without a ghost.
    assert np.abs(past.mean - frames[-1])[30:60, 50:80].mean() < 0.02


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (31, 33)])
def test_tiny_frames_go_through(size: tuple[int, int]) -> None:
    pasts = after([picture(0, *size)] * 3)
    assert pasts[-1].density.shape == size
    assert np.isfinite(pasts[-1].mean).all()


def test_a_past_comes_back_from_its_arrays() -> None:
    past = after([picture(0)] * 3, noise=0.01)[-1]
    again = Past.from_arrays(past.to_arrays())
    assert (again.time, again.frames, again.noise) == (past.time, past.frames, past.noise)
    for name in ("grey", "density", "airlight", "mean", "counted"):
        np.testing.assert_array_equal(getattr(again, name), getattr(past, name))
        assert getattr(again, name).dtype == getattr(past, name).dtype
