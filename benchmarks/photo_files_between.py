"""Time to read and write a photo, compared with another checkout of this project.

    git worktree add ../before v0.1.0
    python benchmarks/photo_files_between.py ../before --megapixels 24

Processor seconds, the median of five rounds in which the two take turns, each time in a process of
its own that has read and written a small photo first. The ratio is what counts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from photo_files import files, picture

HERE = Path(__file__).resolve().parents[1]
# Code that runs in the timed checkout; arguments: a small file, a large one, the result.
TIMED = """
import sys, time
from pathlib import Path
try:
    from dehaze.photos import read_photo, write_photo
except ImportError:
    from dehaze.images import read_photo, write_photo
small, large, result = map(Path, sys.argv[1:])
for path in (small, large):
    started = time.process_time()
    photo = read_photo(path)
    read = time.process_time()
    write_photo(result, photo.pixels, like=photo)
    written = time.process_time()
print(read - started, written - read)
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="The root of the other checkout.")
    parser.add_argument("--megapixels", type=float, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="Files whose names begin so.")
    given = parser.parse_args(arguments)
    heights = [round((megapixels * 1e6 / 1.5) ** 0.5) for megapixels in (0.05, given.megapixels)]
    makers = [files(picture(height, round(height * 1.5))) for height in heights]
    print("| file | read, s | to the other | write, s | to the other |")
    print("| --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        for name in filter(lambda each: each.startswith(given.only), makers[0]):
            paths = [Path(folder) / each for each in ("small", "large", "result")]
            for path, make in zip(paths, makers, strict=False):
                make[name](path)
            ours, theirs = compared(paths, given.other.resolve(), given.rounds)
            columns = [
                f"{statistics.median(own):.2f} | "
                f"{statistics.median(own) / statistics.median(others):.2f}"
                for own, others in zip(
                    zip(*ours, strict=True), zip(*theirs, strict=True), strict=True
                )
            ]
            print(f"| {name} | {' | '.join(columns)} |", flush=True)


def compared(
    paths: Sequence[Path], other: Path, rounds: int
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Seconds of reading and of writing in each round, here and in the other checkout."""
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(timed(HERE, paths))
        theirs.append(timed(other, paths))
    return ours, theirs


def timed(checkout: Path, paths: Sequence[Path]) -> tuple[float, float]:
    done = subprocess.run(
        [sys.executable, "-c", TIMED, *map(str, paths)],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    read, write = map(float, done.stdout.split())
    return read, write


if __name__ == "__main__":
    main()
