"""The range of every number that a user chooses, in Python and on the command line."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import TypeVar

from dehaze.errors import DehazeError


class RangeError(DehazeError, ValueError):
    """A number lies outside of its range; the message names it and the range."""


@dataclass(frozen=True)
class Range:
    """The numbers from ``low`` to ``high``.

    Attributes:
        name: of the setting, as in Python.
        low: the smallest number.
        high: the largest number.
        open: ``low`` itself is too small.

    Example:
        >>> Range("strength", 0, 2).check(0.5)
        0.5
        >>> Range("strength", 0, 2).check(float("nan"))
        Traceback (most recent call last):
        dehaze.ranges.RangeError: strength is nan: it must be 0 to 2
    """

    name: str
    low: float
    high: float = math.inf
    open: bool = False

    def check(self, value: float) -> float:
        """The value itself.

        Raises:
            RangeError: it is outside of the range, or no finite number.
        """
        try:
            # Python counts True and False as whole numbers; a user does not.
            inside = not isinstance(value, bool) and math.isfinite(value)
            inside = inside and self.low <= value <= self.high
        except TypeError:
            inside = False
        if not inside or (self.open and value == self.low):
            shown = f"{value}" if isinstance(value, float) else f"{value!r}"
            raise RangeError(f"{self.name} is {shown}: it must be {self}")
        return value

    def __str__(self) -> str:
        """The range in words."""
        if math.isinf(self.low):
            return "a finite number"
        if math.isinf(self.high):
            return f"above {self.low:g}" if self.open else f"at least {self.low:g}"
        start = f"above {self.low:g} and at most" if self.open else f"{self.low:g} to"
        return f"{start} {self.high:g}"


def check_count(name: str, value: int) -> int:
    """The value itself, a whole number of at least 1.

    Raises:
        RangeError: it is none.

    Example:
        >>> check_count("steps", 4)
        4
    """
    try:
        enough = not isinstance(value, bool) and operator.index(value) >= 1
    except TypeError:
        enough = False
    if not enough:
        raise RangeError(f"{name} is {value!r}: it must be a whole number, at least 1")
    return value


def check_switch(name: str, value: bool) -> bool:
    """The value itself, True or False.

    Raises:
        RangeError: it is neither, such as the text "no", which counts as true in Python.

    Example:
        >>> check_switch("checked", False)
        False
    """
    if not isinstance(value, bool):
        raise RangeError(f"{name} is {value!r:.80}: it must be True or False")
    return value


Chosen = TypeVar("Chosen")


def check_settings(value: Chosen | None, default: Chosen) -> Chosen:
    """The settings that were given, or the default ones when None.

    Raises:
        RangeError: they are of another kind than the default ones, such as a dict.
    """
    if value is None:
        return default
    if not isinstance(value, type(default)):
        raise RangeError(f"settings is {value!r:.80}: it must be {type(default).__name__}(...)")
    return value


# At strength 2 colours already leave the picture's range.
STRENGTH = Range("strength", 0, 2)
EXPOSURE = Range("exposure", 0, 1)
ATTENTION_MEMORY = Range("attention_memory", 0)
GUIDANCE_SCALE = Range("guidance_scale", 0, 50)
TOLERANCE = Range("tolerance", 0, 1, open=True)
ETA = Range("eta", 0, 1)
LEARNING_RATE = Range("learning_rate", 0, open=True)
WORD_WEIGHT = Range("word_weight", -math.inf)
SEMANTIC_WEIGHT = Range("semantic_weight", 0)
SHARE = Range("share", 0, 1)
MEGABYTES = Range("max_upload", 0, open=True)
MEGAPIXELS = Range("max_megapixels", 0, open=True)
SECONDS = Range("seconds", 0, open=True)
