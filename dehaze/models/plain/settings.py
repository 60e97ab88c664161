"""Settings of a part as its configuration file holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Settings(dict[str, Any]):
    """A configuration whose entries are attributes as well, as in diffusers."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


def differing(
    config: Mapping[str, Any],
    free: frozenset[str],
    fixed: Mapping[str, Any],
    unused: frozenset[str] = frozenset(),
) -> str | None:
    """The first setting that is missing, unknown, or has a value that is not implemented; or None.

    A missing setting is refused, since its default is the library's and may be another value.

    Args:
        config: the configuration; names that begin with an underscore are notes.
        free: names of settings that may have any value.
        fixed: the implemented value of each other setting.
        unused: names of settings without effect, which may be missing.
    """
    missing = sorted((free | fixed.keys()) - config.keys())
    if missing:
        return missing[0]
    for name, value in config.items():
        known = name.startswith("_") or name in free or name in unused
        if not known and (name not in fixed or value != fixed[name]):
            return name
    return None
