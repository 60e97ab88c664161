"""How far a command is: a bar on a terminal, and now and then a line where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dehaze.commands.reporting import Verbosity, note, verbosity

# Seconds between two lines: a job of a night leaves some hundred of them in its log.
SECONDS = 60.0


@contextmanager
def progress(total: int, unit: str) -> Iterator[Callable[[], object]]:
    """Show on stderr how many of so many things are done, while this lasts; nothing with -q.

    Args:
        total: how many there are.
        unit: one of them, in words.

    Yields:
        what is to be called when one more is done.
    """
    if verbosity() is Verbosity.QUIET:
        yield lambda: None
    elif not sys.stderr.isatty():
        yield _Lines(total, unit).update
    else:
        from tqdm import tqdm

        with tqdm(total=total, unit=unit, file=sys.stderr, leave=False) as bar:
            yield bar.update


class _Lines:
    """For a log: a line every SECONDS, none for what takes less."""

    def __init__(self, total: int, unit: str) -> None:
        self._total = total
        self._unit = unit
        self._done = 0
        self._started = self._said = time.monotonic()

    def update(self) -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._said < SECONDS or self._done == self._total:
            return
        self._said = now
        left = (now - self._started) / self._done * (self._total - self._done)
        note(f"{self._done} of {self._total} {self._unit}s, about {_duration(left)} left")


def _duration(seconds: float) -> str:
    """Seconds in words: "50 s", "7 min", "2 h 5 min"."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
