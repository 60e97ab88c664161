"""Photos that cannot be read are found before an evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dehaze.datasets import DatasetNotFoundError, split_readable
from dehaze.errors import DehazeError


def refuse_dark(file: Path, photo: NDArray[np.float32]) -> None:
    if float(photo.max()) < 0.5:
        raise DehazeError(f"{file.name}: is dark")


def test_files_that_cannot_be_evaluated_are_told_apart(tmp_path: Path) -> None:
    good, dark, torn = (tmp_path / name for name in ("a.png", "b.png", "c.png"))
    Image.new("RGB", (8, 8), "white").save(good)
    Image.new("RGB", (8, 8)).save(dark)
    torn.write_bytes(good.read_bytes()[:40])
    readable, left_out = split_readable([torn, good, dark], refuse_dark)
    assert readable == [good]
    assert left_out[0].startswith(f"{torn}: ")
    assert left_out[1:] == ["b.png: is dark"]
    assert split_readable([good, dark]) == ([good, dark], [])
    assert split_readable([]) == ([], [])
    with pytest.raises(DatasetNotFoundError, match=r"no photo can be evaluated: .*c\.png: "):
        split_readable([torn])
