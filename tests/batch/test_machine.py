"""Cores and memory of the machine, or the limits of Linux's control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dehaze.batch import machine
from dehaze.batch.memory import megapixels_for


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of the control groups of a machine with 64 cores and 512 GiB."""
    root = tmp_path / "cgroup"
    monkeypatch.setattr(machine, "_ROOT", root)
    monkeypatch.setattr(machine, "_OF_PROCESS", tmp_path / "of_process")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64), raising=False)
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**27}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__, raising=False)
    return root


def bound(root: Path, of_process: str, files: dict[str, str]) -> None:
    (root.parent / "of_process").write_text(of_process)
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content + "\n")


@pytest.mark.parametrize(
    ("of_process", "files", "cores", "gibibytes"),
    [
        # No control groups at all, as on macOS.
        ("", {}, 64, 512),
        # docker run --cpus 1.5 --memory 4g, with version 2 and a namespace of its own.
        ("0::/\n", {"cpu.max": "150000 100000", "memory.max": str(4 << 30)}, 2, 4),
        ("0::/\n", {"cpu.max": "max 100000", "memory.max": "max"}, 64, 512),
        # The limit of a group above holds.
        (
            "0::/job.slice/step\n",
            {"job.slice/memory.max": str(8 << 30), "job.slice/step/memory.max": "max",
             "job.slice/step/cpu.max": "400000 100000"},
            4, 8,
        ),
        # Version 1: no limit is a number larger than any machine; the path is the host's.
        (
            "5:cpuacct,cpu:/docker/1a\n4:memory:/docker/1a\n",
            {"cpuacct,cpu/cpu.cfs_quota_us": "300000", "cpuacct,cpu/cpu.cfs_period_us": "100000",
             "memory/memory.limit_in_bytes": str(2 << 30)},
            3, 2,
        ),
        (
            "1:cpu:/\n4:memory:/\n",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000",
             "memory/memory.limit_in_bytes": "9223372036854771712"},
            64, 512,
        ),
    ],
)  # fmt: skip
def test_limits_of_a_container_are_seen(
    groups: Path, of_process: str, files: dict[str, str], cores: int, gibibytes: int
) -> None:
    bound(groups, of_process, files)
    assert machine.cores() == cores
    assert machine.memory() == gibibytes << 30


def test_large_photos_go_fewer_at_a_time_in_a_small_container(groups: Path) -> None:
    """Photos take half of the memory, at 60 MB a megapixel."""
    bound(groups, "0::/\n", {})
    assert megapixels_for(8) == 8 * 64
    (groups / "memory.max").parent.mkdir()
    (groups / "memory.max").write_text(str(2_400_000_000))
    assert megapixels_for(1) == 20


def test_a_system_that_does_not_say_has_no_memory(
    groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sysconf", raising=False)
    assert machine.memory() is None
    assert megapixels_for(8) == 64
