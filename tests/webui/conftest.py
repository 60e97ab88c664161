"""A server of the page in a process of its own, with a small random model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from servers import running

from dehaze.photos import write_photo


@pytest.fixture(scope="session")
def page(random_model: Path) -> Iterator[str]:
    """The address of a running page."""
    with running("ui", random_model, "--max-upload", "2") as (address, _):
        yield address


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, Path]:
    """A few photos, one of them broken, one of a format that browsers do not show."""
    rng = np.random.default_rng(0)
    scene = np.kron(rng.uniform(0.4, 0.9, (6, 9, 3)), np.ones((20, 20, 1))).astype(np.float32)
    folder = tmp_path / "photos"
    folder.mkdir()
    found = {name: folder / name for name in ("a b.jpg", "größe.png", "c.tif")}
    for path in found.values():
        write_photo(path, scene)
    found["broken.jpg"] = folder / "broken.jpg"
    found["broken.jpg"].write_bytes(found["a b.jpg"].read_bytes()[:700])
    return found
