"""What the evaluation's tests share: a small data set with known haze."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut


@pytest.fixture
def sots(tmp_path: Path) -> Path:
    """A root with a small SOTS-outdoor: four scenes of 96x72, A = .8, in lossless files."""
    root = tmp_path / "data"
    folder = root / "SOTS" / "outdoor"
    for part in ("hazy", "gt"):
        (folder / part).mkdir(parents=True)
    for scene in range(4):
        clear = astronaut()[90 * scene : 90 * scene + 72, 50:146].astype(np.float64)
        transmission = np.linspace(0.3 + 0.1 * scene, 0.9, 72)[:, None, None]
        hazy = clear * transmission + 255 * 0.8 * (1 - transmission)
        for path, pixels in (
            (folder / "gt" / f"000{scene}.png", clear),
            (folder / "hazy" / f"000{scene}_0.8_0.2.png", hazy),
        ):
            Image.fromarray(np.rint(pixels).astype(np.uint8)).save(path)
    return root
