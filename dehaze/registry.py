"""Everything that is chosen by a name is kept in a ``Registry``."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Generic, TypeVar

from dehaze.errors import DehazeError

Entry = TypeVar("Entry")


class UnknownNameError(DehazeError, ValueError):
    """No entry has this name; the message lists the names that there are."""


class Registry(Generic[Entry]):
    """Entries of one kind by name, in the order in which they were registered.

    Args:
        kind: what an entry is, in words that a message can use: ``"solver"``.

    Example:
        >>> greetings = Registry[str]("greeting")
        >>> greetings.register("polite", "Good morning")
        'Good morning'
        >>> greetings.names()
        ['polite']
        >>> greetings.get("polite")
        'Good morning'
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}

    def register(self, name: str, entry: Entry) -> Entry:
        """Adds an entry under a new name, and returns it.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._entries:
            raise ValueError(f"there is a {self.kind} {name!r} already")
        self._entries[name] = entry
        return entry

    def names(self) -> list[str]:
        """The names of all entries."""
        return list(self._entries)

    def get(self, name: str) -> Entry:
        """The entry of that name.

        Raises:
            UnknownNameError: there is none.
        """
        if isinstance(name, str) and name in self._entries:
            return self._entries[name]
        near = get_close_matches(str(name), self._entries, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UnknownNameError(
            f"unknown {self.kind} {name!r}: there are {', '.join(self._entries)}{hint}"
        )

    def __iter__(self) -> Iterator[Entry]:
        """The entries themselves."""
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)
