"""Gives each parameter a row of its own in the API reference."""

from __future__ import annotations

import re
from typing import Any

import griffe

# An item of a docstring's section that describes several parameters: "prompt, word: ...".
_SHARED = re.compile(r"(?P<indent> +)(?P<names>\w+(?:, \w+)+): ")


class SharedParameters(griffe.Extension):
    """Repeats a description that several parameters of a docstring share."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = one_each(obj.docstring.value)


def one_each(docstring: str) -> str:
    """A docstring in which each parameter has an item, with the description that it shares."""
    lines = docstring.split("\n")
    result: list[str] = []
    while lines:
        line = lines.pop(0)
        found = _SHARED.match(line)
        if found is None:
            result.append(line)
            continue
        more: list[str] = []
        while lines and lines[0].startswith(found["indent"] + " "):
            more.append(lines.pop(0))
        for name in found["names"].split(", "):
            result.append(f"{found['indent']}{name}: {line[found.end() :]}")
            result += more
    return "\n".join(result)
