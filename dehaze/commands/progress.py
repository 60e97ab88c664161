"""Progress of a command: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from dehaze.commands.reporting import Verbosity, note, verbosity

# Seconds between two lines; a job of a night writes some hundred of them.
SECONDS = 60.0


class Ended(Protocol):
    """Called when one more thing is done."""

    def __call__(self, kept: bool = False) -> object:
        """One more is done; ``kept``, if by an earlier run, so that it took no time now."""


@contextmanager
def progress(total: int, unit: str) -> Iterator[Ended]:
    """Show on stderr how many of the things are done, while this lasts; nothing with -q.

    Args:
        total: how many there are.
        unit: one of them, in words.

    Yields:
        what is to be called when one more is done.
    """
    if verbosity() is Verbosity.QUIET:
        yield lambda kept=False: None
    elif sys.stderr is None or not sys.stderr.isatty():
        yield _Lines(total, unit).update
    else:
        from tqdm import tqdm

        with tqdm(total=total, unit=unit, file=sys.stderr, leave=False) as bar:
            yield lambda kept=False: bar.update()


class _Lines:
    """Lines for a log: one every ``SECONDS``."""

    def __init__(self, total: int, unit: str) -> None:
        self._total = total
        self._unit = unit
        self._done = self._kept = 0
        self._started = self._said = time.monotonic()

    def update(self, kept: bool = False) -> None:
        self._done += 1
        self._kept += kept
        now = time.monotonic()
        if now - self._said < SECONDS or self._done == self._total:
            return
        self._said = now
        text = f"{self._done} of {self._total} {self._unit}s"
        if self._done > self._kept:
            each = (now - self._started) / (self._done - self._kept)
            text += f", about {_duration(each * (self._total - self._done))} left"
        note(text)


def _duration(seconds: float) -> str:
    """Seconds in words: "50 s", "7 min", "2 h 5 min"."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
