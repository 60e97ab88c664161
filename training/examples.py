"""Renders the example photos, and the sheet of docs/quality.md, over Kodak's photos."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from dehaze.datasets.synthesis import render_haze
from dehaze.eval.metrics import peak_signal_noise_ratio
from dehaze.levels import to_levels
from dehaze.pipelines.dehaze import DehazePipeline
from training.photos import load_photos

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
        stored = to_levels(rendered.hazy[..., ::-1])
        if not cv2.imwrite(str(path), stored, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
            raise ValueError(f"{path} cannot be written")
        written.append(path)
    return written


def write_sheet(pipeline: DehazePipeline, kodak: Path, path: Path, count: int = 12) -> list[float]:
    """Writes hazy, dehazed and clear pictures of Kodak's first ``count`` landscape photos.

    Each photo's mean density is drawn between 0.3 and 0.65; denser haze leaves nothing to see.

    Returns:
        the PSNR of each result in dB, in the order of the sheet: left to right, top to bottom.

    Raises:
        ValueError: there are too few photos, or the sheet cannot be written.
    """
    photos = [
        photo
        for photo in load_photos(sorted(kodak.glob("kodim*.png")), short_side=512)
        if photo.shape[1] > photo.shape[0]
    ]
    if len(photos) < count:
        raise ValueError(f"{kodak} has {len(photos)} landscape photos: the sheet takes {count}")
    cells, scores = [], []
    for position, clear in enumerate(photos[:count]):
        rng = np.random.default_rng(position)
        density = float(rng.uniform(0.3, 0.65))
        rendered = render_haze(clear, rng, density=density, homogeneous=True)
        result = pipeline(rendered.hazy)
        scores.append(peak_signal_noise_ratio(result.image, clear, data_range=1.0))
        row = np.hstack([rendered.hazy, result.image, clear])
        cell = cv2.resize(row, (600, 132), interpolation=cv2.INTER_AREA)
        cells.append(
            cv2.copyMakeBorder(cell, 3, 3, 4, 4, cv2.BORDER_CONSTANT, value=(1.0, 1.0, 1.0))
        )
    sheet = np.vstack([np.hstack(cells[start : start + 2]) for start in range(0, count, 2)])
    stored = to_levels(sheet[..., ::-1])
    if not cv2.imwrite(str(path), stored, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
        raise ValueError(f"{path} cannot be written")
    return scores
