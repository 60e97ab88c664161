"""Types of options' values: each reads a value from its text, or names the fault."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import click
from click.shell_completion import CompletionItem

from dehaze import ranges
from dehaze.ranges import Range, RangeError
from dehaze.registry import Registry


class RegistryChoice(click.ParamType):
    """One of the names in a registry.

    The option's own default is not looked up: a registry is imported only for another value.
    """

    name = "choice"

    def __init__(self, choices: Callable[[], Registry[Any] | Iterable[str]]) -> None:
        self._choices = choices

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if param is not None and value == param.default:
            return str(value)
        choices = self._choices()
        names = choices.names() if isinstance(choices, Registry) else list(choices)
        if value not in names:
            self.fail(f"{value!r} is not one of {', '.join(names)}.", param, ctx)
        return str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The names that begin as what is typed, for the Tab key."""
        choices = self._choices()
        names = choices.names() if isinstance(choices, Registry) else choices
        return _beginning(names, incomplete)


class Names(click.ParamType):
    """Names with commas between them; each one of ``choices`` where these are given."""

    name = "NAMES"

    def __init__(self, choices: Callable[[], Iterable[str]] | None = None) -> None:
        self._choices = choices

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = self.split(value)
        known = names if self._choices is None else tuple(self._choices())
        for name in names:
            if name not in known:
                self.fail(f"{name!r} is not one of {', '.join(known)}.", param, ctx)
        return names

    def split(self, text: str) -> tuple[str, ...]:
        """The names in a text, each once and in the order in which they were given."""
        return tuple(dict.fromkeys(filter(None, (name.strip() for name in text.split(",")))))

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The names that may stand behind the last comma, for the Tab key."""
        typed, comma, last = incomplete.rpartition(",")
        left = [] if self._choices is None else set(self._choices()) - set(typed.split(","))
        return [
            CompletionItem(f"{typed}{comma}{item.value}") for item in _beginning(sorted(left), last)
        ]


class Kinds(Names):
    """Names with commas between them, in lower case and in alphabetical order."""

    name = "kinds"

    def split(self, text: str) -> tuple[str, ...]:
        """The names in a text, each once and in alphabetical order; an empty one stays."""
        return tuple(sorted({name.strip().lower() for name in text.split(",")}))


class Exposure(click.ParamType):
    """How far a result is lightened: a name, or a number between those of the names."""

    name = "exposure"
    names: ClassVar[dict[str, float]] = {"scene": 0.0, "keep": 1.0}

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if value in self.names:
            return self.names[value]
        try:
            return ranges.EXPOSURE.check(float(value))
        except ValueError:
            self.fail(
                f"{value!r} is none of {', '.join(self.names)}, nor a number from 0 to 1.",
                param,
                ctx,
            )

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The names that begin as what is typed, for the Tab key."""
        return _beginning(self.names, incomplete)


class Number(click.ParamType):
    """A number of a range that Python checks as well."""

    name = "number"

    def __init__(self, allowed: Range) -> None:
        self.allowed = allowed

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            return self.allowed.check(float(value))
        except RangeError:
            self.fail(f"{value} is out of range: it must be {self.allowed}.", param, ctx)
        except ValueError:
            self.fail(f"{value!r} is not a number.", param, ctx)


class Suffix(click.ParamType):
    """The suffix of a photo format, given with or without its dot."""

    name = "format"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from dehaze.photos import PHOTO_SUFFIXES

        suffix = f".{value.lower().removeprefix('.')}"
        if suffix not in PHOTO_SUFFIXES:
            names = ", ".join(sorted(known[1:] for known in PHOTO_SUFFIXES))
            self.fail(f"{value!r} is not one of {names}.", param, ctx)
        return suffix

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The formats that begin as what is typed, for the Tab key."""
        from dehaze.photos import PHOTO_SUFFIXES

        return _beginning(sorted(known[1:] for known in PHOTO_SUFFIXES), incomplete)


class NameEnding(click.ParamType):
    """Text that can stand at the end of a file's name."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value or not value.isprintable() or set(value) & set('/\\:*?"<>|'):
            self.fail(f"{value!r} cannot stand in a file's name on every system.", param, ctx)
        return str(value)


class BatchSize(click.ParamType):
    """A number, or "auto" for None."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        return None if value == "auto" else click.IntRange(min=1).convert(value, param, ctx)


def _beginning(names: Iterable[str], typed: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(typed)]
