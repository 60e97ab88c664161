"""Numbers out of their range, and what is no number, are refused by name."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from dehaze.inversion import InversionSettings
from dehaze.ranges import Range, RangeError, check_count, check_settings


@pytest.mark.parametrize("value", [0, 2, 0.5, np.float32(2), np.int64(1)])
def test_a_number_in_its_range_comes_back(value: float) -> None:
    assert Range("strength", 0, 2).check(value) == value


@pytest.mark.parametrize("value", [-1e-9, 2.1, math.nan, math.inf, "keep", None, [1], True])
def test_a_number_out_of_its_range_is_named(value: Any) -> None:
    with pytest.raises(RangeError, match=r"strength is .*: it must be 0 to 2"):
        Range("strength", 0, 2).check(value)
    with pytest.raises(RangeError, match="tolerance is 0: it must be above 0"):
        Range("tolerance", 0, open=True).check(0)


@pytest.mark.parametrize("value", [0, -3, 1.5, 4.0, "4", None, True])
def test_counts_are_whole_numbers(value: Any) -> None:
    with pytest.raises(RangeError, match=r"steps is .*: it must be a whole number, at least 1"):
        check_count("steps", value)
    assert check_count("steps", np.int64(4)) == 4


def test_settings_of_another_kind_are_named() -> None:
    default = InversionSettings(steps=3)
    assert check_settings(None, default) is default
    for value in ({"steps": 3}, {}, 3, "steps"):
        with pytest.raises(RangeError, match=r"settings is .*: it must be InversionSettings\("):
            check_settings(value, default)


def test_an_unknown_setting_of_an_inversion_is_named() -> None:
    options: dict[str, Any] = {"strenght": 0.5}
    with pytest.raises(TypeError, match="there is no option strenght"):
        InversionSettings().changed(**options)
