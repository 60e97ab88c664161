"""What the evaluation's tests share: the development data, and small data sets with known haze."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The development data: $DEHAZE_DATA, or shared/data beside the checkout."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    root = Path(os.environ.get("DEHAZE_DATA", beside))
    if not (root / "SOTS").is_dir():
        pytest.skip("no development data: set DEHAZE_DATA to the folder that holds SOTS")
    return root


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
        save(folder / "gt" / f"000{scene}.png", clear)
        save(folder / "hazy" / f"000{scene}_0.8_0.2.png", hazy)
    return root


def save(path: Path, pixels: np.ndarray) -> None:
    """Write pixels of [0, 255] as an 8-bit picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8)).save(path)
