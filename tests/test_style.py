"""The house's style is part of the tests: ruff and mypy are clean, on the layout as installed."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _run(*command: str, cwd: Path = ROOT) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", [("check",), ("format", "--check")])
def test_ruff_is_clean(command: tuple[str, ...]) -> None:
    _run("ruff", *command, ".")


def test_mypy_is_clean() -> None:
    # The cache stays where mypy keeps it: only the first run in a checkout checks everything.
    cache = ROOT / ".mypy_cache"
    layout = cache / "layout"
    runpy.run_path(str(ROOT / ".ci" / "layout.py"))["lay_out"](layout)
    settings = ("--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(cache))
    _run("mypy", *settings, "-p", "dehaze", "-p", "training", "-m", "cli", cwd=layout)


def test_test_names_are_at_most_60_characters() -> None:
    for path in (ROOT / "tests").rglob("test_*.py"):
        for name in re.findall(r"^ *def (test_\w+)", path.read_text(), re.MULTILINE):
            assert len(name) <= 60, f"{path}: {name}"
