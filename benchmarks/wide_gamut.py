"""The dependence of a result on the colour space that a photo is stored in.

    python benchmarks/wide_gamut.py

A photo in a wide-gamut space is dehazed as it is stored, under its own profile, so that no colour
is lost to a smaller space. The bundled model was trained on sRGB. Here the same photos are dehazed
in sRGB and in other spaces, and both results are compared in sRGB: PSNR in dB. The last row is the
PSNR of the sRGB result to the hazy photo, which shows how much dehazing changes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dehaze import DehazePipeline
from dehaze.photos import read_photo

Array = NDArray[np.float64]
EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*_haze.jpg"))

# Chromaticities of red, green and blue, and of the white point: IEC 61966-2-1, SMPTE EG 432-1,
# Adobe RGB (1998), ISO 22028-2 (ROMM).
D65, D50 = (0.3127, 0.3290), (0.3457, 0.3585)
SRGB = (((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)), D65)
SPACES: dict[str, tuple[tuple, float | None]] = {
    "Display P3": ((((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)), D65), None),
    "Adobe RGB": ((((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), D65), 2.2),
    "ProPhoto RGB": ((((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)), D50), 1.8),
}
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def main() -> None:
    pipe = DehazePipeline.from_pretrained("bundled")
    pipe.set_progress_bar_config(disable=True)
    photos = [cv2.resize(read_photo(path).pixels, None, fx=0.5, fy=0.5) for path in EXAMPLES]
    plain = [pipe(photo).image for photo in photos]
    print("| stored in | " + " | ".join(path.stem for path in EXAMPLES) + " |")
    print("| --- |" + " ---: |" * len(EXAMPLES))
    for name, (space, gamma) in SPACES.items():
        there, back = conversion(space, gamma)
        cells = [
            f"{psnr(back(pipe(there(photo)).image), result):.1f}"
            for photo, result in zip(photos, plain, strict=True)
        ]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    changes = [f"{psnr(photo, result):.1f}" for photo, result in zip(photos, plain, strict=True)]
    print("| what dehazing changes | " + " | ".join(changes) + " |")


def conversion(
    space: tuple, gamma: float | None
) -> tuple[Callable[[Array], NDArray[np.float32]], Callable[[Array], Array]]:
    """Two functions: from encoded sRGB to a space's own encoding, and back."""
    matrix = np.linalg.inv(to_xyz(*space)) @ adaptation(D65, space[1]) @ to_xyz(*SRGB)

    def there(photo: Array) -> NDArray[np.float32]:
        linear = np.clip(decode_srgb(photo) @ matrix.T, 0, 1)
        stored = encode_srgb(linear) if gamma is None else linear ** (1 / gamma)
        return stored.astype(np.float32)

    def back(stored: Array) -> Array:
        linear = decode_srgb(stored) if gamma is None else stored.astype(np.float64) ** gamma
        return encode_srgb(np.clip(linear @ np.linalg.inv(matrix).T, 0, 1))

    return there, back


def to_xyz(primaries: tuple, white: tuple[float, float]) -> Array:
    columns = np.stack([xyz(chromaticity) for chromaticity in primaries], axis=1)
    return columns * np.linalg.solve(columns, xyz(white))


def xyz(chromaticity: tuple[float, float]) -> Array:
    x, y = chromaticity
    return np.array([x / y, 1.0, (1 - x - y) / y])


def adaptation(source: tuple[float, float], target: tuple[float, float]) -> Array:
    """Bradford's chromatic adaptation between two white points."""
    scale = (BRADFORD @ xyz(target)) / (BRADFORD @ xyz(source))
    return np.linalg.inv(BRADFORD) @ np.diag(scale) @ BRADFORD


def decode_srgb(values: Array) -> Array:
    values = np.asarray(values, np.float64)
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def encode_srgb(linear: Array) -> Array:
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def psnr(first: Array, second: Array) -> float:
    return float(-10 * np.log10(np.mean((np.asarray(first, np.float64) - second) ** 2)))


if __name__ == "__main__":
    main()
