"""The cores and the memory that this process may use, in a container too."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2

_ROOT = Path("/sys/fs/cgroup")
_OF_PROCESS = Path("/proc/self/cgroup")


def cores() -> int:
    """How many processor cores this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    for folder in _control_groups("cpu"):
        for quota, period in (_quota(folder / "cpu.max"), _quota_of_v1(folder)):
            if quota > 0 and period > 0:
                allowed = min(allowed, math.ceil(quota / period))
    return max(allowed, 1)


def memory() -> int | None:
    """Bytes of memory that this process may use; None where the system does not say (Windows)."""
    try:
        allowed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    for folder in _control_groups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _number(_content(folder / name))
            if limit > 0:
                allowed = min(allowed, limit)
    return allowed


@contextmanager
def opencv_on_one_core() -> Iterator[None]:
    """Limit OpenCV to one core, since other workers use the others.

    Processes that each have a thread for every core wait for each other.
    """
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _control_groups(controller: str) -> Iterator[Path]:
    """The folders of Linux's control groups that bound this process, of version 2 and of 1."""
    for line in _content(_OF_PROCESS).splitlines():
        _, _, controllers = line.partition(":")
        names, _, path = controllers.partition(":")
        if names and controller not in names.split(","):
            continue
        root = _ROOT / names if names else _ROOT
        group = root / path.lstrip("/")
        # A limit of any group above holds as well. In a container the path may be the host's, which
        # is not there, and the root is the container's own group.
        while root in group.parents or group == root:
            yield group
            group = group.parent


def _quota(path: Path) -> tuple[int, int]:
    """Microseconds of processor time, and the period in microseconds; 0 for no bound."""
    quota, _, period = _content(path).partition(" ")
    return _number(quota), _number(period)


def _quota_of_v1(folder: Path) -> tuple[int, int]:
    names = "cpu.cfs_quota_us", "cpu.cfs_period_us"
    quota, period = (_number(_content(folder / name)) for name in names)
    return quota, period


def _content(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _number(text: str) -> int:
    """A whole number; 0 where there is none, such as "max"."""
    return int(text) if text.isdigit() else 0
