"""The photos of the page's tabs: files in one folder, under names made here."""

from __future__ import annotations

import re
import secrets
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

from dehaze.errors import DehazeError

MAX_PHOTOS = 2000
"""Of one tab."""


class UnknownError(DehazeError, KeyError):
    """There is no such tab, photo or export any more."""

    def __str__(self) -> str:
        """The message itself, without the quotes that KeyError would add."""
        return str(self.args[0])


class FullError(DehazeError, ValueError):
    """A tab holds as many photos as it may."""


@dataclass(frozen=True)
class Held:
    """One photo of a tab.

    Attributes:
        key: its name in addresses, random.
        name: as the user knows it: what a download is called. Never a path.
        path: of its file.
        is_copy: the file is the server's own, and goes with the photo.
    """

    key: str
    name: str
    path: Path
    is_copy: bool


@dataclass
class _Tab:
    photos: dict[str, Held] = field(default_factory=dict)
    used: float = field(default_factory=time.monotonic)


class Workspace:
    """Photos by tab and key.

    Args:
        folder: where uploads lie; it must exist.
        idle_seconds: a tab that asked for nothing so long is forgotten.
    """

    def __init__(self, folder: Path, *, idle_seconds: float = 6 * 3600.0) -> None:
        self._folder = folder
        self._idle = idle_seconds
        self._tabs: dict[str, _Tab] = {}
        self._lock = threading.Lock()

    def new_file(self, name: str = "") -> Path:
        """A path for a file that does not exist yet, with the suffix of a photo's name."""
        suffix = PurePosixPath(name).suffix
        plain = suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,8}", suffix) else ""
        return self._folder / f"{secrets.token_hex(16)}{plain}"

    def open_tab(self) -> str:
        """A new tab's key."""
        self.forget_idle()
        key = secrets.token_urlsafe(16)
        with self._lock:
            self._tabs[key] = _Tab()
        return key

    def add(self, tab: str, name: str, path: Path, *, is_copy: bool) -> Held:
        """Take a photo's file into a tab.

        Args:
            tab: its key.
            name: what the user calls the photo; only its last part counts.
            path: of the file.
            is_copy: the file is the server's own.

        Raises:
            UnknownError: there is no such tab.
            FullError: it holds as many photos as it may.
        """
        held = Held(secrets.token_urlsafe(16), plain_name(name), path, is_copy)
        photos = self._tab(tab).photos
        if len(photos) >= MAX_PHOTOS:
            raise FullError(
                f"{MAX_PHOTOS} photos are open, which is as many as may; remove some, or use "
                "dehaze run"
            )
        photos[held.key] = held
        return held

    def get(self, tab: str, key: str) -> Held:
        """A photo of a tab.

        Raises:
            UnknownError: there is none.
        """
        held = self._tab(tab).photos.get(key)
        if held is None:
            raise UnknownError("this photo is no longer open: add it again")
        return held

    def remove(self, tab: str, key: str) -> None:
        """Forget a photo, and delete its file where that is a copy."""
        held = self.get(tab, key)
        del self._tab(tab).photos[key]
        _discard(held)

    def close_tab(self, tab: str) -> list[str]:
        """Forget a tab; the keys of its photos."""
        with self._lock:
            closed = self._tabs.pop(tab, _Tab())
        for held in closed.photos.values():
            _discard(held)
        return list(closed.photos)

    def forget_idle(self) -> None:
        """Close the tabs that asked for nothing in a long time."""
        limit = time.monotonic() - self._idle
        with self._lock:
            idle = [key for key, tab in self._tabs.items() if tab.used < limit]
        for key in idle:
            self.close_tab(key)

    def clear(self) -> None:
        """Forget everything, and delete the folder."""
        for key in list(self._tabs):
            self.close_tab(key)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _tab(self, key: str) -> _Tab:
        with self._lock:
            tab = self._tabs.get(key)
        if tab is None:
            raise UnknownError("this tab is no longer known to the server: load the page again")
        tab.used = time.monotonic()
        return tab


def plain_name(name: str) -> str:
    """The last part of a name from any system, without characters that no name should have.

    >>> plain_name("../../etc/passwd"), plain_name("C:\\\\photos\\\\a.jpg"), plain_name("..")
    ('passwd', 'a.jpg', 'photo')
    """
    last = PurePosixPath(PureWindowsPath(name).name).name
    kept = "".join(letter for letter in last if letter.isprintable() and letter not in '<>:"|?*')
    return kept.strip(". ")[-200:] or "photo"


def _discard(held: Held) -> None:
    if held.is_copy:
        held.path.unlink(missing_ok=True)
