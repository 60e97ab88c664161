"""Flicker, PSNR and evaluations of a film in known haze: frames one by one beside the film.

Usage: python benchmarks/video_flicker.py PHOTO... [--frames 24] [--ablate]

Each photo becomes a film of three parts, in haze that belongs to the scene: the camera stands still
while a block moves through the picture; it pans by 2 pixels a frame; it pans by 8. Every frame has
noise of its own, with a standard deviation of 2/255, and is rounded to 8 bits. Flicker is the mean
absolute change of luma from frame to frame of what stands still in the scene, and tremble that of
the means of 16 x 16 pixels, both along the known motion and beside the input's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
from numpy.typing import NDArray

from dehaze import DehazePipeline, read_photo
from dehaze.datasets.synthesis import render_haze
from dehaze.luma import luma
from dehaze.video import smoothing
from dehaze.video.frames import FrameDehazer, FrameSettings

Array = NDArray[np.float32]
Way = Callable[[DehazePipeline, Sequence[Array]], tuple[list[Array], float]]
SIZE = (320, 480)
NOISE = 2.0 / 255.0
RATE = 25.0
BLOCK = 60
# Frames after the first ones, in which the means are not yet means of many.
SETTLED = 4


@dataclass(frozen=True)
class Part:
    """A part of a film: frames with haze and without, and where the scene stands still.

    Attributes:
        name: in words.
        step: pixels that the camera moves by from frame to frame.
        hazy, clear: float32 (H, W, 3) each.
        still: bool (H, W) each.
    """

    name: str
    step: int
    hazy: list[Array]
    clear: list[Array]
    still: list[NDArray[np.bool_]]


def film(path: Path, frames: int, seed: int) -> list[Part]:
    """The three parts of a photo's film."""
    rng = np.random.default_rng(seed)
    rendered = render_haze(read_photo(path).pixels, rng, density=0.5, homogeneous=True)
    height, width = SIZE
    parts, left = [], 0
    room = rendered.clear.shape[1] - width
    for name, step in (("still", 0), ("slow pan", 2), ("fast pan", 8)):
        part = Part(name, step, [], [], [])
        count = frames if step == 0 else min(frames, room // (2 * step))
        for n in range(count):
            place = np.s_[:height, left + n * step : left + n * step + width]
            clear, t = rendered.clear[place].copy(), rendered.transmission[place][..., None]
            still = np.ones(SIZE, bool)
            if step == 0:
                column, row = 30 + 12 * n % (width - 120), height * 3 // 5
                clear[row : row + BLOCK, column : column + BLOCK] = (0.05, 0.05, 0.3)
                still[row - 8 : row + BLOCK + 8, max(0, column - 20) : column + BLOCK + 20] = False
            hazy = clear * t + rendered.airlight * (1.0 - t) + rng.normal(0, NOISE, clear.shape)
            part.hazy.append(np.round(np.clip(hazy, 0, 1) * 255).astype(np.float32) / 255)
            part.clear.append(clear)
            part.still.append(still)
        left += (count - 1) * step
        parts.append(part)
    return parts


def flicker(part: Part, frames: Sequence[Array]) -> tuple[float, float]:
    """Mean absolute change of luma of the pixels, and of means of 16 x 16 of them."""
    pixels, blocks = [], []
    for n in range(SETTLED, len(frames)):
        inside = np.s_[:, : SIZE[1] - part.step], np.s_[:, part.step :]
        change = luma(frames[n])[inside[0]] - luma(frames[n - 1])[inside[1]]
        still = part.still[n][inside[0]] & part.still[n - 1][inside[1]]
        pixels.append(np.abs(change[still]).mean())
        size = (change.shape[1] // 16, change.shape[0] // 16)
        means = cv2.resize(change * still, size, interpolation=cv2.INTER_AREA)
        whole = cv2.resize(still.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.99
        blocks.append(np.abs(means[whole]).mean())
    return float(np.mean(pixels)), float(np.mean(blocks))


def psnr(frames: Sequence[Array], clear: Sequence[Array]) -> float:
    """Mean PSNR in dB."""
    pairs = zip(frames, clear, strict=True)
    return float(np.mean([-10 * np.log10(np.mean((a - b) ** 2)) for a, b in pairs]))


def singly(pipe: DehazePipeline, frames: Sequence[Array]) -> tuple[list[Array], float]:
    """Each frame as a photo, and the evaluations that one took."""
    results = [pipe(frame) for frame in frames]
    return [each.image for each in results], float(np.mean([each.nfe for each in results]))


def as_film(
    pipe: DehazePipeline, frames: Sequence[Array], settings: FrameSettings | None = None
) -> tuple[list[Array], float]:
    """The frames as ``dehaze run clip.mp4`` takes them, and the evaluations that one took."""
    dehazer = FrameDehazer(pipe, settings)
    results = [dehazer(frame, n / RATE) for n, frame in enumerate(frames)]
    return [each.image for each in results], float(np.mean([each.evaluations for each in results]))


def without_motion(pipe: DehazePipeline, frames: Sequence[Array]) -> tuple[list[Array], float]:
    """As ``as_film``, with a density that stays in its place whatever moves."""

    def none(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> Array:
        return np.zeros((*before.shape, 2), np.float32)

    with mock.patch.object(smoothing, "motion", none):
        return as_film(pipe, frames)


def never_started(
    pipe: DehazePipeline, frames: Sequence[Array], settings: FrameSettings
) -> tuple[list[Array], float]:
    """As ``as_film``, with inversions that never start from that of the frame before."""
    with mock.patch.object(FrameDehazer, "_start", return_value=None):
        return as_film(pipe, frames, settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--ablate", action="store_true", help="also what its parts are worth")
    arguments = parser.parse_args()
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
        for part in film(path, arguments.frames, number):
            given = flicker(part, part.hazy)
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
