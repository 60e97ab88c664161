"""How much darker photos of real haze become.

    python benchmarks/lightness.py $DEHAZE_DATA/real_hazy

Haze is light, so a photo without it is darker; but a result that is far too dark has lost more than
haze. Each photo is reduced to a short side of 400 pixels and dehazed with the bundled model. The
table counts the results that lose more than 30 of 255 levels of mean luma, and those that fall
below 60 from above. The dark results are named below it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dehaze import DehazePipeline
from dehaze.luma import luma
from dehaze.photos import PHOTO_SUFFIXES, read_photo
from dehaze.recovery.guided_filter import reduced

SHORT_SIDE = 400
LOST, DARK = 30.0, 60.0


def levels(photo: NDArray[np.float32]) -> float:
    """Mean luma, of 255 levels."""
    return 255.0 * float(luma(photo).mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="a folder")
    parser.add_argument("--limit", type=int, help="the first photos alone")
    given = parser.parse_args(arguments)
    pipe = DehazePipeline.from_pretrained("bundled")
    pipe.set_progress_bar_config(disable=True)
    files = sorted(
        file for file in given.photos.iterdir() if file.suffix.lower() in PHOTO_SUFFIXES
    )[: given.limit]
    if not files:
        parser.error(f"{given.photos} holds no photos")
    before, after = [], []
    for file in files:
        photo = reduced(read_photo(file).pixels, SHORT_SIDE)
        before.append(levels(photo))
        after.append(levels(pipe(photo).image))
    losses = np.subtract(before, after)
    dark = [
        f"{file.name}, {was:.0f} to {now:.0f}"
        for file, was, now in zip(files, before, after, strict=True)
        if now < DARK <= was
    ]
    print(f"| photos | mean loss, levels | lose more than {LOST:.0f} | fall below {DARK:.0f} |")
    print("| ---: | ---: | ---: | ---: |")
    print(f"| {len(files)} | {losses.mean():.1f} | {(losses > LOST).sum()} | {len(dark)} |")
    for line in dark:
        print(f"\nBelow {DARK:.0f}: {line}")


if __name__ == "__main__":
    main()
