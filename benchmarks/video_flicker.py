"""Flicker, PSNR and evaluations of a clip in known haze: as single frames and as a clip.

Usage: python benchmarks/video_flicker.py PHOTO... [--frames 24] [--size 480x320] [--ablate]

Each photo becomes a film of five parts, with haze that is fixed to the scene: the camera stands
still while a block moves through the picture; it pans by 2, 3 and 8 pixels a frame; it is held by
hand, so that the picture drifts and turns by fractions of a pixel. Every frame has noise of its
own, with a standard deviation of 2/255, and is rounded to 8 bits. Flicker is the mean absolute
change of luma between frames, in the parts of the scene that stand still. Tremble is the same of
means over 16 x 16 pixels. Both follow the known motion and are ratios to the input's. The film
without haze, with the same noise, is printed for comparison: where the camera moves by fractions of
a pixel, its detail alone changes more than the input does.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
from numpy.typing import NDArray

from dehaze import DehazePipeline, read_photo
from dehaze.datasets.synthesis import RenderedHaze, render_haze
from dehaze.luma import luma
from dehaze.video import smoothing
from dehaze.video.frames import FrameDehazer, FrameSettings

Array = NDArray[np.float32]
Way = Callable[[DehazePipeline, Sequence[Array]], tuple[list[Array], float]]
Size = tuple[int, int]
NOISE = 2.0 / 255.0
RATE = 25.0
BLOCK = 60
PANS = {"pan, 2 pixels a frame": 2, "pan, 3 pixels a frame": 3, "pan, 8 pixels a frame": 8}
# The part that is held by hand. PER_PIXEL: pixels of the photo for one of the frame. LENS: blur of
# the lens and the sensor's pixels, as a standard deviation in pixels of the photo; without it,
# detail would come and go with fractions of a pixel. JERK: change of the speed from frame to frame,
# in pixels and in degrees.
PER_PIXEL = 1.4
LENS = 0.8
JERK = (0.4, 0.03)
# First frame that counts: before it, means are of few frames.
SETTLED = 4


@dataclass(frozen=True)
class Part:
    """A part of a film: frames with haze and without, and where the scene stands still.

    Attributes:
        name: in words.
        hazy, clear: float32 (H, W, 3) each.
        still: bool (H, W) each.
        places: float64 (3, 3) each, from a frame's pixels (x, y, 1) to those of the photo.
    """

    name: str
    hazy: list[Array]
    clear: list[Array]
    still: list[NDArray[np.bool_]]
    places: list[NDArray[np.float64]]


def film(path: Path, frames: int, seed: int, size: Size) -> list[Part]:
    """The parts of a photo's film, whose frames are of this (height, width) in pixels."""
    rng = np.random.default_rng(seed)
    scene = render_haze(read_photo(path).pixels, rng, density=0.5, homogeneous=True)
    room = scene.clear.shape[1] - size[1]
    parts = [part_of(scene, "still", [shifted(0)] * frames, rng, size, block=True)]
    for name, step in PANS.items():
        count = min(frames, room // step)
        parts.append(part_of(scene, name, [shifted(n * step) for n in range(count)], rng, size))
    places = held_by_hand(scene, frames, rng, size)
    blurred = replace(scene, clear=cv2.GaussianBlur(scene.clear, (0, 0), LENS))
    return [*parts, part_of(blurred, "held by hand", places, rng, size)]


def shifted(columns: float) -> NDArray[np.float64]:
    """The matrix of a window of the photo that begins at a column."""
    return np.array([[1.0, 0.0, columns], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def held_by_hand(
    scene: RenderedHaze, frames: int, rng: np.random.Generator, size: Size
) -> list[NDArray[np.float64]]:
    """Matrices of windows around the photo's middle, which drift and turn at a varying speed."""
    height, width = scene.clear.shape[:2]
    drift, turn, places = np.zeros(2), 0.0, []
    speed, turning = np.zeros(2), 0.0
    for _ in range(frames):
        # The pull back keeps the window within the photo.
        speed = 0.8 * speed + rng.normal(0, JERK[0], 2) - 0.02 * drift
        turning = 0.8 * turning + float(rng.normal(0, JERK[1])) - 0.02 * turn
        drift, turn = drift + speed, turn + turning
        cosine, sine = PER_PIXEL * np.cos(np.deg2rad(turn)), PER_PIXEL * np.sin(np.deg2rad(turn))
        rotation = np.array([[cosine, -sine], [sine, cosine]])
        middle = np.array([width, height]) / 2 + PER_PIXEL * drift
        begin = middle - rotation @ (np.array(size[::-1]) / 2)
        places.append(np.vstack([np.column_stack([rotation, begin]), [0.0, 0.0, 1.0]]))
    return places


def part_of(
    scene: RenderedHaze,
    name: str,
    places: list[NDArray[np.float64]],
    rng: np.random.Generator,
    size: Size,
    *,
    block: bool = False,
) -> Part:
    """The frames at these places, with noise and, if ``block``, a block that moves through them."""
    part = Part(name, [], [], [], places)
    height, width = size
    for n, place in enumerate(places):
        clear, t = (seen_at(each, place, size) for each in (scene.clear, scene.transmission))
        still = np.ones(size, bool)
        if block:
            column, row = 30 + 12 * n % (width - 120), height * 3 // 5
            clear[row : row + BLOCK, column : column + BLOCK] = (0.05, 0.05, 0.3)
            still[row - 8 : row + BLOCK + 8, max(0, column - 20) : column + BLOCK + 20] = False
        veil = scene.airlight * (1.0 - t[..., None])
        part.hazy.append(noisy(clear * t[..., None] + veil, rng))
        part.clear.append(clear)
        part.still.append(still)
    return part


def noisy(frame: Array, rng: np.random.Generator) -> Array:
    """A frame with a camera's noise, in 8 bits."""
    seen = np.clip(frame + rng.normal(0, NOISE, frame.shape), 0, 1)
    return np.asarray(np.round(seen * 255) / 255, dtype=np.float32)


def seen_at(values: Array, place: NDArray[np.float64], size: Size) -> Array:
    """The part of the photo that a frame at this place shows; exact at whole pixels."""
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    seen = cv2.warpAffine(values, place[:2], size[::-1], flags=flags, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(np.clip(seen, 0.0, 1.0), dtype=np.float32)


def flicker(part: Part, frames: Sequence[Array]) -> tuple[float, float]:
    """Flicker and tremble: the mean absolute change of luma of pixels, and of means of 16 x 16."""
    pixels, blocks = [], []
    height, width = frames[0].shape[:2]
    for n in range(SETTLED, len(frames)):
        # From this frame's pixels to those of the frame before.
        back = np.linalg.inv(part.places[n - 1]) @ part.places[n]
        change = luma(frames[n]) - seen_at(luma(frames[n - 1]), back, (height, width))
        still = part.still[n] & within(part.still[n - 1], back)
        pixels.append(np.abs(change[still]).mean())
        size = (width // 16, height // 16)
        means = cv2.resize(change * still, size, interpolation=cv2.INTER_AREA)
        whole = cv2.resize(still.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.99
        blocks.append(np.abs(means[whole]).mean())
    return float(np.mean(pixels)), float(np.mean(blocks))


def within(still: NDArray[np.bool_], back: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where the scene is in the frame before as well, and stood still there."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(still.astype(np.float32), back[:2], still.shape[::-1], flags=flags)
    return np.asarray(moved > 0.999)


def psnr(frames: Sequence[Array], clear: Sequence[Array]) -> float:
    """Mean PSNR in dB."""
    pairs = zip(frames, clear, strict=True)
    return float(np.mean([-10 * np.log10(np.mean((a - b) ** 2)) for a, b in pairs]))


def singly(pipe: DehazePipeline, frames: Sequence[Array]) -> tuple[list[Array], float]:
    """The results of dehazing each frame as a photo, and the mean evaluations of one."""
    results = [pipe(frame) for frame in frames]
    return [each.image for each in results], float(np.mean([each.nfe for each in results]))


def as_film(
    pipe: DehazePipeline, frames: Sequence[Array], settings: FrameSettings | None = None
) -> tuple[list[Array], float]:
    """The results of ``dehaze run clip.mp4``'s method, and the mean evaluations of a frame."""
    dehazer = FrameDehazer(pipe, settings)
    results = [dehazer(frame, n / RATE) for n, frame in enumerate(frames)]
    return [each.image for each in results], float(np.mean([each.evaluations for each in results]))


def without_motion(pipe: DehazePipeline, frames: Sequence[Array]) -> tuple[list[Array], float]:
    """As ``as_film``, but the density does not follow motion."""

    def none(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> Array:
        return np.zeros((*before.shape, 2), np.float32)

    with mock.patch.object(smoothing, "motion", none):
        return as_film(pipe, frames)


def never_started(
    pipe: DehazePipeline, frames: Sequence[Array], settings: FrameSettings
) -> tuple[list[Array], float]:
    """As ``as_film``, but no inversion starts from that of the frame before."""
    with mock.patch.object(FrameDehazer, "_start", return_value=None):
        return as_film(pipe, frames, settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--size", default="480x320", help="width and height of a frame, pixels")
    parser.add_argument("--ablate", action="store_true", help="also leave out single parts")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    pipe = DehazePipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    ways: dict[str, Way] = {"frames singly": singly, "as a film": as_film}
    if arguments.ablate:
        ways["as a film, motion not followed"] = without_motion
        several = FrameSettings(max_iterations=10)
        ways["as a film, 10 iterations"] = partial(as_film, settings=several)
        ways["as a film, 10 iterations, inversions started anew"] = partial(
            never_started, settings=several
        )
    print("| photo | part | | flicker | tremble | PSNR | evaluations a frame |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: |")
    for number, path in enumerate(arguments.photos):
        for part in film(path, arguments.frames, number, (height, width)):
            given = flicker(part, part.hazy)
            rng = np.random.default_rng(number)
            without_haze = [noisy(each, rng) for each in part.clear]
            pixel, block = (a / b for a, b in zip(flicker(part, without_haze), given, strict=True))
            print(f"| {path.stem} | {part.name} | no haze | {pixel:.2f} | {block:.2f} | | |")
            for name, way in ways.items():
                frames, evaluations = way(pipe, part.hazy)
                pixel, block = (a / b for a, b in zip(flicker(part, frames), given, strict=True))
                print(
                    f"| {path.stem} | {part.name} | {name} | {pixel:.2f} | {block:.2f} "
                    f"| {psnr(frames, part.clear):.2f} | {evaluations:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
