"""Time to read and write a photo, compared with Pillow.

    python benchmarks/photo_files.py --megapixels 24

Pillow reads 8 bits and keeps no metadata, so its time is a lower bound; the ratio counts. Both are
processor seconds, the least of three rounds in which the two take turns. The picture is a ramp with
noise.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from dehaze.photos import Encoding, Photo, read_photo, write_photo

ROUNDS = 3


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megapixels", type=float, default=24)
    given = parser.parse_args(arguments)
    Image.MAX_IMAGE_PIXELS = None
    height = round((given.megapixels * 1e6 / 1.5) ** 0.5)
    deep = picture(height, round(height * 1.5))
    print("| file | read, s | to Pillow | write, s | to Pillow |")
    print("| --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        for name, make in files(deep).items():
            path = Path(folder) / name.replace(" ", "-")
            make(path)
            print(row(name, path))
            path.unlink()


def picture(height: int, width: int) -> NDArray[np.uint16]:
    rows, columns = np.mgrid[0:height, 0:width]
    ramp = np.stack([rows / height, columns / width, (rows + columns) / (height + width)], axis=2)
    noise = np.random.default_rng(0).normal(0, 0.006, ramp.shape)
    return np.clip((ramp + noise) * 65535, 0, 65535).astype(np.uint16)


def files(deep: NDArray[np.uint16]) -> dict[str, Callable[[Path], None]]:
    """A writer for each kind of file, by its name."""
    flat = (deep >> 8).astype(np.uint8)
    image = Image.fromarray(flat)

    def tiff(samples: NDArray[Any], compression: str | None) -> Callable[[Path], None]:
        def write(path: Path) -> None:
            predicted = compression is not None
            tifffile.imwrite(
                path, samples, photometric="rgb", compression=compression, predictor=predicted
            )

        return write

    def deep_png(path: Path) -> None:
        photo = Photo((deep[:1] / 65535).astype(np.float32), encoding=Encoding("PNG", bits=16))
        write_photo(path, (deep / 65535).astype(np.float32), like=photo)

    return {
        "JPEG": lambda path: image.save(path, "JPEG", quality=92),
        "PNG 8 bits": lambda path: image.save(path, "PNG", compress_level=1),
        "PNG 16 bits": deep_png,
        "TIFF 8 bits": tiff(flat, None),
        "TIFF 8 bits LZW": tiff(flat, "lzw"),
        "TIFF 16 bits": tiff(deep, None),
        "TIFF 16 bits LZW": tiff(deep, "lzw"),
        "TIFF 16 bits ZIP": tiff(deep, "adobe_deflate"),
        "WebP": lambda path: image.save(path, "WEBP", quality=90),
        "BMP": lambda path: image.save(path, "BMP"),
    }


def row(name: str, path: Path) -> str:
    photo = read_photo(path)
    result = path.with_name("result")
    with Image.open(path) as opened:
        opened.load()
        options = {"compression": "tiff_lzw"} if "LZW" in name else {}
        options |= {"quality": "keep"} if name == "JPEG" else {}
        options |= {"compression": "tiff_adobe_deflate"} if "ZIP" in name else {}
        file_format = opened.format
    steps: list[Callable[[], Any]] = [
        lambda: read_photo(path),
        lambda: np.asarray(Image.open(path)),
        lambda: write_photo(result, photo.pixels, like=photo),
        lambda: opened.save(io.BytesIO(), file_format, **options),
    ]
    rounds = [[timed(step) for step in steps] for _ in range(ROUNDS)]
    seconds = [min(times) for times in zip(*rounds, strict=True)]
    read, theirs, write, pillows = seconds
    return f"| {name} | {read:.2f} | {read / theirs:.2f} | {write:.2f} | {write / pillows:.2f} |"


def timed(step: Callable[[], Any]) -> float:
    started = time.process_time()
    step()
    return time.process_time() - started


if __name__ == "__main__":
    main()
