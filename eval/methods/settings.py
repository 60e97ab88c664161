"""The settings of a row, as they stand after its name: ``key=value,key=value``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dehaze.eval.methods.base import MethodError
from dehaze.ranges import RangeError


def read_settings(text: str, readers: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """The value of each key, in the order of the text.

    Args:
        text: what stands after the name's colon; may be empty.
        readers: how a value is read, for each key that there is. A reader raises ``ValueError``
            where the value is no number.

    Raises:
        MethodError: a key is unknown or stands there twice, or its value does not fit.

    Example:
        >>> read_settings("steps=10,solver=ddim", {"steps": int, "solver": str})
        {'steps': 10, 'solver': 'ddim'}
    """
    values: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        key, separator, value = part.partition("=")
        if not separator or key not in readers:
            raise MethodError(
                f"{part!r} is no option; there are {', '.join(readers)}, each as key=value"
            )
        if key in values:
            raise MethodError(f"{text!r} has {key} twice: leave one out")
        try:
            values[key] = readers[key](value)
        except (RangeError, MethodError) as error:
            raise MethodError(f"{part!r}: {error}") from error
        except ValueError as error:
            raise MethodError(f"{part!r} is no number") from error
    return values
