"""Settings of a part as its configuration file holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Settings(dict[str, Any]):
    """A configuration whose entries are attributes as well, as those of diffusers are."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


def differing(
    config: Mapping[str, Any], free: frozenset[str], fixed: Mapping[str, Any]
) -> str | None:
    """The first setting that has another value than the one that is implemented, or None.

    Args:
        config: the configuration; names that begin with an underscore are notes.
        free: names of settings that may have any value.
        fixed: the implemented value of each other setting.
    """
    for name, value in config.items():
        known = name.startswith("_") or name in free
        if not known and (name not in fixed or value != fixed[name]):
            return name
    return None
