"""The example photos: haze rendered over four of Kodak's photos, which may be shipped."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from dehaze.datasets.synthesis import render_haze
from training.data import load_photos

# Photo, kind of haze, mean of 1 - t, seed.
EXAMPLES = (
    ("kodim08.png", "haze", 0.55, 4),
    ("kodim19.png", "haze", 0.55, 7),
    ("kodim22.png", "haze", 0.60, 8),
    ("kodim24.png", "mist", 0.45, 4),
)
JPEG_QUALITY = 90


def write_examples(kodak: Path, folder: Path) -> list[Path]:
    """Renders the examples over the photos in ``kodak`` and writes them as JPEG.

    Raises:
        ValueError: a photo is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, kind, density, seed in EXAMPLES:
        (clear,) = load_photos([kodak / name], short_side=512)
        rng = np.random.default_rng(seed)
        rendered = render_haze(clear, rng, kind=kind, density=density, homogeneous=True)
        path = folder / f"{Path(name).stem}_{kind}.jpg"
        stored = np.round(rendered.hazy[..., ::-1] * 255.0).astype(np.uint8)
        if not cv2.imwrite(str(path), stored, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
            raise ValueError(f"{path} cannot be written")
        written.append(path)
    return written
