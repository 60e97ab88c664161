"""Common to the subcommands of ``dehaze evaluate``: options, option types, the command line."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import Any

import click


class Size(click.ParamType):
    """WIDTHxHEIGHT in pixels."""

    name = "WxH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        width, _, height = str(value).lower().partition("x")
        if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
            self.fail(f"{value!r} is no size such as 512x512.", param, ctx)
        return int(width), int(height)


class Numbers(click.ParamType):
    """Positive numbers with commas between them."""

    name = "NUMBERS"

    def __init__(self, kind: type[int] | type[float]) -> None:
        self._kind = kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(self._kind(number) for number in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of numbers such as 10,20.", param, ctx)
        if not all(0 < number < math.inf for number in numbers):
            self.fail(f"{value!r} must be positive.", param, ctx)
        return numbers


def command_line() -> str:
    """The command that is running, as it can be typed again."""
    program = Path(sys.argv[0]).name
    started = f"python {sys.argv[0]}" if program.endswith(".py") else program
    return f"{started} {shlex.join(sys.argv[1:])}"
