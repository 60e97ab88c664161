"""Reads thousands of damaged photos: each must give a photo or a named error, in little time.

    python benchmarks/fuzz_reader.py --files 10000

Files of every format, depth and mode are damaged in one of five ways: bytes are changed, a block is
overwritten, a piece is cut out, the end is cut off, or two files are spliced. The seed makes a run
reproducible.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from dehaze.photos import Encoding, Photo, PhotoError, read_photo, write_photo

KINDS = [
    (file_format, bits, grey, alpha)
    for file_format, depths, alphas in (
        ("JPEG", (8,), (False,)),
        ("PNG", (8, 16), (False, True)),
        ("TIFF", (8, 16), (False, True)),
        ("WEBP", (8,), (False, True)),
        ("BMP", (8,), (False, True)),
    )
    for bits in depths
    for alpha in alphas
    for grey in (False, True)
    if not (grey and (file_format == "WEBP" or (file_format == "BMP" and alpha)))
]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    chance = np.random.default_rng(given.seed)
    counts: Counter[str] = Counter()
    slowest = 0.0
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        wholes = [whole_file(Path(name) / "whole", kind) for kind in KINDS]
        damaged = Path(name) / "damaged"
        for _ in range(given.files):
            damaged.write_bytes(damage(wholes, chance))
            before = time.perf_counter()
            try:
                read_photo(damaged, max_megapixels=1)
                counts["a photo"] += 1
            except PhotoError as error:
                cause = error.cause.split("(")[0].strip()
                counts["named: " + " ".join(w for w in cause.split() if w.isalpha())] += 1
            slowest = max(slowest, time.perf_counter() - before)
    for what, count in counts.most_common():
        print(f"{count:6} {what}")
    print(
        f"{given.files} damaged files of {len(KINDS)} kinds in "
        f"{time.perf_counter() - started:.0f} s, the slowest {slowest:.2f} s: "
        "nothing but photos and named errors"
    )


def whole_file(path: Path, kind: tuple[str, int, bool, bool]) -> bytes:
    file_format, bits, grey, with_alpha = kind
    pixels = np.random.default_rng(0).random((12, 17, 3), np.float32)
    encoding = Encoding(format=file_format, bits=bits, grey=grey)
    write_photo(path, pixels, like=Photo(pixels, pixels[..., 0] if with_alpha else None, encoding))
    return path.read_bytes()


def damage(wholes: Sequence[bytes], chance: np.random.Generator) -> bytes:
    """A file, damaged in one of five ways, mostly near its beginning."""
    data = bytearray(wholes[int(chance.integers(len(wholes)))])
    place = int(len(data) * chance.random() ** 2)
    length = int(chance.integers(1, 64))
    way = chance.integers(5)
    if way == 0:
        for _ in range(int(chance.integers(1, 9))):
            data[int(len(data) * chance.random() ** 2)] = int(chance.integers(256))
    elif way == 1:
        data[place : place + length] = chance.bytes(length)
    elif way == 2:
        del data[place : place + length]
    elif way == 3:
        del data[place:]
    else:
        other = wholes[int(chance.integers(len(wholes)))]
        data[place:] = other[int(len(other) * chance.random()) :]
    return bytes(data)


if __name__ == "__main__":
    main()
