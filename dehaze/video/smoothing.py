"""Smooths the haze of a clip over time, and averages out noise.

The estimate of the haze trembles a little from frame to frame. The division by t makes that, and
the camera's noise, visible. So the optical density d = -log t is moved along with the picture, and
changes only slowly, as haze does. So does the lightness that is added to the scene. The mean of
several frames is dehazed, so that their noise is not divided by t. The mean follows the camera, and
begins anew where something else moves. At a cut everything begins anew.

Source: this project.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dehaze.levels import to_levels
from dehaze.luma import luma
from dehaze.recovery.guided_filter import resize
from dehaze.recovery.recover import ProxyEstimate

Array = NDArray[np.float32]
Bytes = NDArray[np.uint8]

# Time, in seconds, within which haze does not change much.
SECONDS = 1.0
# A frame begins a new shot where 1 - r is above this, r being its correlation with the frame
# before. Measured in docs/video.md.
CUT = 0.1
# Differences of luma between a frame and the one before, moved along. Above the first number the
# past counts less; from the second on it does not count.
_CHANGED = (0.03, 0.07)
# Speed of the camera in pixels a frame, below which it stands still: an inversion may then start
# from the last frame's.
_STILL = 0.2
# Changes as multiples of those made by noise. Below the first number a place shows the same as the
# mean; from the second on it shows something else.
_MOVING = (1.6, 2.2)
# The quantile of all places' noise that is taken for the frame's; it is low, since most places may
# have been moved along badly.
_NOISE_QUANTILE = 0.1
# The least value of noise: compression holds most places still and renews others.
_LEAST_NOISE = 1.0 / 255.0
# The largest factor by which the measured noise may grow from frame to frame.
_NOISE_GROWTH = 1.1
# Half-width, as a share of the short side, of the window of neighbours of what enters the frame.
_NEIGHBOURS = 0.05
# Half-widths of the windows in which differences are averaged, at the estimate's size.
_CHANGE_RADIUS = 2
_NOISE_RADIUS = 3
_MOTION_RADIUS = 4
# Share of the pixels with the strongest edges, whose motion is the camera's, and the largest number
# of them that is used.
_EDGES = 0.2
_EDGES_TAKEN = 4000
# An edge agrees with the camera's motion when its own differs by fewer pixels than this. At least
# this share of the edges must agree.
_AGREES = 0.5
_LEAST_AGREEMENT = 0.5
# The camera's motion is known to about 0.01 pixels. A motion of fewer pixels than this is taken for
# none, so that nothing is interpolated.
_LEAST_MOTION = 0.02
# A place moves by itself where its own motion leaves less change than this share of the change that
# the camera's motion leaves.
_BY_ITSELF = 0.85
# OpenCV's search needs room for a few of its patches of 8 pixels.
_LEAST_FLOW = 32


@dataclass(frozen=True)
class Past:
    """What is known from the frames so far.

    Attributes:
        time: of the last frame, in seconds.
        frames: how many there were since the last cut, at least 1.
        grey: the last frame's luma at the estimate's size, uint8 (h, w).
        density: d = -log t, smoothed, float32 (h, w), 0 or above.
        airlight: A, smoothed, float32 (3,) in [0, 1].
        lightness: e of ``ProxyEstimate``, smoothed, float32 (h, w).
        mean: the mean of the frames where they show the same, else the last frame, float32
            (H, W, 3) in [0, 1].
        counted: how many frames are in the mean at each place, float32 (h, w), at least 1.
        noise: mean absolute difference of luma made by noise alone; infinite where unknown.
        speed: of the camera before the last frame, in pixels a frame; infinite where unknown.
    """

    time: float
    frames: int
    grey: Bytes
    density: Array
    airlight: Array
    lightness: Array
    mean: Array
    counted: Array
    noise: float = math.inf
    speed: float = math.inf

    @property
    def is_still(self) -> bool:
        """Whether the camera stood still between the last two frames."""
        return self.speed < _STILL

    @property
    def estimate(self) -> ProxyEstimate:
        """The haze of the mean, see ``dehaze.recovery.recover.recover_through``."""
        small = resize(self.mean, (self.density.shape[0], self.density.shape[1]))
        return ProxyEstimate(small, np.exp(-self.density), self.airlight, self.lightness)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """All of it as arrays by name, for a file."""
        return {each.name: np.array(getattr(self, each.name), order="C") for each in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[np.generic]]) -> Past:
        """What ``to_arrays`` gave."""
        numbers = {"time": float, "frames": int, "noise": float, "speed": float}
        values: dict[str, Any] = {
            name: numbers.get(name, np.asarray)(value) for name, value in arrays.items()
        }
        return cls(**values)


def begin(frame: Array, estimate: ProxyEstimate, time: float) -> Past:
    """The past after the first frame of a shot; arguments as those of ``follow``."""
    density = _density(estimate)
    return Past(
        time=time,
        frames=1,
        grey=_grey(estimate.photo),
        density=density,
        airlight=estimate.airlight,
        lightness=estimate.lightness,
        mean=frame,
        counted=np.ones_like(density),
    )


def follow(past: Past, frame: Array, estimate: ProxyEstimate, time: float) -> Past:
    """The past after one more frame; that of ``begin`` after a cut, or at another size.

    Args:
        past: after the frames before.
        frame: I, float32 (H, W, 3) in [0, 1].
        estimate: of the frame alone.
        time: of the frame, in seconds.
    """
    grey = _grey(estimate.photo)
    if past.mean.shape != frame.shape or past.grey.shape != grey.shape:
        return begin(frame, estimate, time)
    flow = motion(past.grey, grey)
    followed = follow_motion(past.grey, flow)
    if is_cut(followed, grey):
        return begin(frame, estimate, time)
    share = max(weight_of(time - past.time), 1.0 / (past.frames + 1))
    difference = cv2.absdiff(grey.astype(np.float32), followed)
    changed = _box(difference / np.float32(255), _CHANGE_RADIUS)
    weight = np.maximum(share, _ramp(changed, *_CHANGED))
    density = _smoothed(past.density, _density(estimate), flow, weight)
    after = replace(
        past,
        time=time,
        frames=past.frames + 1,
        grey=grey,
        density=np.maximum(density, 0.0),
        airlight=past.airlight + np.float32(share) * (estimate.airlight - past.airlight),
        lightness=_smoothed(past.lightness, estimate.lightness, flow, weight),
    )
    return _averaged(after, frame, flow, weight_of(time - past.time))


def weight_of(seconds: float) -> float:
    """The weight of a frame s seconds after the last one: 1 - exp(-s / ``SECONDS``)."""
    return 1.0 - math.exp(-max(seconds, 0.0) / SECONDS)


def motion(before: Bytes, after: Bytes) -> Array:
    """Where each pixel comes from, as an offset (x, y) in pixels: float32 (h, w, 2).

    It is the camera's motion, which is known more exactly than a single place's. Where a place's
    own motion explains the frame clearly better, it is that.

    Args:
        before, after: luma, uint8 (h, w).

    Source: Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016, by OpenCV.
    """
    none = np.zeros((*before.shape, 2), np.float32)
    if min(before.shape) < _LEAST_FLOW:
        return none
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    # The preset itself stops at a quarter of the size: motions of 2 pixels are off by 0.1 to 0.3.
    search.setFinestScale(1)
    flow = np.asarray(search.calc(after, before, none), dtype=np.float32)
    camera = camera_motion(before, after, flow)
    if camera is None:
        return flow
    by_itself, by_camera = (
        _box(np.abs(after - follow_motion(before, each)), _MOTION_RADIUS) for each in (flow, camera)
    )
    return np.where((by_itself < _BY_ITSELF * by_camera)[..., None], flow, camera)


def camera_motion(before: Bytes, after: Bytes, flow: Array) -> Array | None:
    """The motion of a scene that is far away or flat before a camera that turns or moves.

    It is a homography: the one that most edges agree with, and then the one after which the two
    frames correlate best.

    Args:
        before, after: luma, uint8 (h, w).
        flow: float32 (h, w, 2), each place's own motion.

    Returns:
        As ``motion``; None where the edges do not move alike.

    Source: Evangelidis and Psarakis, "Parametric Image Alignment Using Enhanced Correlation
    Coefficient Maximization", TPAMI 2008, by OpenCV.
    """
    grid = _grid(after.shape)
    places = grid[_edges(after)]
    places = places[:: max(1, len(places) // _EDGES_TAKEN)]
    columns, rows = places.astype(int).T
    homography, agrees = cv2.findHomography(
        places, places + flow[rows, columns], cv2.RANSAC, _AGREES
    )
    if homography is None or agrees.mean() < _LEAST_AGREEMENT:
        return None
    along = cv2.perspectiveTransform(grid, homography) - grid
    alike = np.linalg.norm(_box(flow - along, _MOTION_RADIUS), axis=2) < _AGREES
    steps = (cv2.TERM_CRITERIA_COUNT, 3, 0.0)
    try:
        _, homography = cv2.findTransformECC(
            after,
            before,
            homography.astype(np.float32),
            cv2.MOTION_HOMOGRAPHY,
            steps,
            alike.astype(np.uint8),
            5,
        )
    except cv2.error:
        # Too little structure for a correlation: the edges' homography holds.
        pass
    else:
        along = cv2.perspectiveTransform(grid, homography) - grid
    if np.median(np.linalg.norm(along, axis=2)) < _LEAST_MOTION:
        return np.zeros_like(flow)
    return np.asarray(along, dtype=np.float32)


def has_entered(flow: Array) -> NDArray[np.bool_]:
    """Whether a place was outside of the frame before: bool (h, w). Argument as of ``motion``."""
    height, width = flow.shape[:2]
    columns, rows = np.moveaxis(_grid((height, width)) + flow, 2, 0)
    return (columns < -0.5) | (columns > width - 0.5) | (rows < -0.5) | (rows > height - 0.5)


def follow_motion(
    values: NDArray[np.generic], flow: Array, interpolation: int = cv2.INTER_LINEAR
) -> Array:
    """Moves values along: each place gets the value of the place that it comes from.

    Args:
        values: (h, w) or (h, w, 3), of the frame before.
        flow: of ``motion``.
        interpolation: OpenCV's.

    Returns:
        float32, shaped as the values.
    """
    moved = cv2.remap(
        np.asarray(values, dtype=np.float32),
        _grid(flow.shape) + flow,
        None,
        interpolation,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(moved, dtype=np.float32)


def is_cut(followed: Array, grey: Bytes) -> bool:
    """Whether a frame shows something else than the last one, moved along.

    Both are blurred against noise, and correlated, so that a change of exposure is no cut.

    Args:
        followed: the last frame's luma, moved along, float32 (h, w) in [0, 255].
        grey: this frame's, uint8 (h, w).
    """
    radius = max(2, round(0.01 * min(grey.shape)))
    before, after = _box(followed / 255.0, radius), _box(grey.astype(np.float32) / 255.0, radius)
    before -= before.mean()
    after -= after.mean()
    # The constant makes two frames without structure alike, such as black ones.
    spread = math.sqrt(float((before**2).mean()) * float((after**2).mean()))
    return 1.0 - (float((before * after).mean()) + 1e-4) / (spread + 1e-4) > CUT


def _smoothed(before: Array, new: Array, flow: Array, weight: Array) -> Array:
    """Values (h, w) of the frame before, moved along, and this frame's in their mean.

    Places that have entered get this frame's values, as their neighbours correct them. Without that
    correction each frame of a pan would leave a stripe.
    """
    values, entered = follow_motion(before, flow), has_entered(flow)
    radius = max(1, round(_NEIGHBOURS * min(values.shape)))
    known = np.where(entered, np.float32(0.0), np.float32(1.0))
    correction = _box(known * (values - new), radius) / np.maximum(_box(known, radius), 1e-6)
    values = np.where(entered, new + correction, values)
    values += weight * (new - values)
    return values


def _averaged(past: Past, frame: Array, flow: Array, share: float) -> Past:
    """The past, its mean and noise brought up to a frame."""
    size, whole = (flow.shape[0], flow.shape[1]), (frame.shape[0], frame.shape[1])
    # The mean is of pixels at full size, so motion is measured at full size, too.
    scale = np.float32(whole[0] / size[0])
    mean, counted = past.mean, past.counted
    if flow.any():
        # Bilinear or cubic interpolation, frame after frame, would blur the mean.
        moved = follow_motion(mean, resize(flow, whole) * scale, cv2.INTER_LANCZOS4)
        mean, counted = moved.clip(0.0, 1.0), follow_motion(counted, flow)
    difference = luma(frame) - luma(mean)
    change = _box(resize(np.abs(difference), size), _NOISE_RADIUS)
    # Each window's mean is taken out, since a fade is no noise.
    ripple = difference - _box(difference, round(_NOISE_RADIUS * scale))
    noise = float(np.quantile(_box(resize(np.abs(ripple), size), _NOISE_RADIUS), _NOISE_QUANTILE))
    noise = max(min(noise, past.noise * _NOISE_GROWTH), _LEAST_NOISE)
    moving = _ramp(change / noise, *_MOVING)
    moving[has_entered(flow)] = 1.0
    counted = np.where(moving > 0.5, 1.0, counted + 1.0).astype(np.float32)
    weight = np.maximum(moving, np.maximum(1.0 / counted, share)).astype(np.float32)
    mean = mean + resize(weight, whole)[..., None] * (frame - mean)
    speed = float(np.median(np.linalg.norm(flow[_edges(past.grey)], axis=1)) * scale)
    return replace(past, mean=mean, counted=counted, noise=noise, speed=speed)


def _edges(grey: Bytes) -> NDArray[np.bool_]:
    """The strongest edges: elsewhere motion is guessed from its surroundings."""
    edges = np.abs(cv2.Sobel(grey, cv2.CV_32F, 1, 0)) + np.abs(cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    return np.asarray(edges >= np.quantile(edges, 1.0 - _EDGES))


def _grid(shape: tuple[int, ...]) -> Array:
    """Each pixel's own place, float32 (h, w, 2)."""
    height, width = shape[:2]
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([columns, rows], axis=2).astype(np.float32)


def _density(estimate: ProxyEstimate) -> Array:
    return np.asarray(-np.log(estimate.transmission), dtype=np.float32)


def _grey(photo: Array) -> Bytes:
    return to_levels(luma(photo))


def _ramp(values: Array, low: float, high: float) -> Array:
    """0 below ``low``, 1 above ``high``."""
    return np.clip((values - low) / (high - low), 0.0, 1.0)


def _box(values: Array, radius: int) -> Array:
    return np.asarray(cv2.blur(values, (2 * radius + 1, 2 * radius + 1)), dtype=np.float32)
