"""The time a photo takes when several share the network, and the change of its result.

    python benchmarks/batch_size.py --rounds 5

Photos of 768x512, made from one of the examples, go through ``DehazePipeline`` in batches. The
batch sizes take turns, round after round. The table has the median processor time over the rounds,
which other programs hardly change; the range of its ratio to one photo at a time; and the
difference of the results from those of one photo at a time, in 8 bits.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from folder_job import make_photos
from numpy.typing import NDArray

from dehaze import DehazePipeline
from dehaze.levels import to_levels
from dehaze.photos import read_photo

SIZES = (1, 2, 4, 8)
MEGAPIXELS = 768 * 512 / 1e6


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    pipe = DehazePipeline.from_pretrained("bundled").to(given.device)
    pipe.set_progress_bar_config(disable=True)
    with tempfile.TemporaryDirectory() as name:
        make_photos(Path(name) / "in", max(SIZES), MEGAPIXELS)
        photos = [read_photo(path).pixels for path in sorted((Path(name) / "in").iterdir())]
    pipe(photos[:1])
    seconds = np.empty((given.rounds, len(SIZES)))
    for taken in seconds:
        results = []
        for index, size in enumerate(SIZES):
            before = time.process_time()
            results.append(in_batches(pipe, photos, size))
            taken[index] = (time.process_time() - before) / len(photos)
    print(f"{torch.get_num_threads()} threads, {given.device}")
    print("| photos at a time | ms a photo | to one at a time | values that differ | by at most |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for index, size in enumerate(SIZES):
        ratios = seconds[:, index] / seconds[:, 0]
        apart = np.abs(results[index] - results[0])
        print(
            f"| {size} | {1000 * np.median(seconds[:, index]):.0f} | "
            f"{ratios.min():.2f} to {ratios.max():.2f} | "
            f"{100 * np.mean(apart > 0):.3f} % | {apart.max()} |"
        )


def in_batches(
    pipe: DehazePipeline, photos: list[NDArray[np.float32]], size: int
) -> NDArray[np.int16]:
    """The results, (n, H, W, 3) in 0 to 255."""
    results = [
        result.image
        for first in range(0, len(photos), size)
        for result in pipe(photos[first : first + size])
    ]
    return to_levels(np.stack(results)).astype(np.int16)


if __name__ == "__main__":
    main()
