"""Importing large libraries in less time."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Pause Python's garbage collector during imports, which make many objects and drop few.

    Collections slow such imports down. Objects that exist after an import are frozen, so that later
    collections skip them.
    """
    collecting, imported = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            if len(sys.modules) > imported:
                gc.freeze()
            gc.enable()
