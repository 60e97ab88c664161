from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import dehaze
from dehaze.levels import from_levels, to_levels

ROOT = Path(dehaze.__file__).resolve().parents[1]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_levels_come_back_from_their_values(dtype: type[np.unsignedinteger]) -> None:
    levels: NDArray[np.unsignedinteger] = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)
    values = from_levels(levels)
    assert values.dtype == np.float32
    assert values[0] == 0.0
    assert values[-1] == 1.0
    back = to_levels(values, bits=8 * levels.itemsize)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, levels)


def test_a_value_between_two_levels_takes_the_nearer() -> None:
    values = np.array([0.4, 0.6, 253.6, 254.4, -3.0, 300.0]) / 255.0
    assert to_levels(values).tolist() == [0, 1, 254, 254, 0, 255]


@pytest.mark.parametrize("folder", ["dehaze", "datasets", "eval", "training"])
def test_values_are_rounded_to_levels_in_one_place(folder: str) -> None:
    again = re.compile(r"np\.(rint|round)\(.*\b255\b|255(\.0)?[,)].*astype\(np\.uint8\)")
    files = [path for path in (ROOT / folder).rglob("*.py") if path.name != "levels.py"]
    assert files
    assert [path.name for path in files if again.search(path.read_text())] == []
