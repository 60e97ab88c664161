"""The house's style is part of the tests: ruff and mypy are clean, on the layout as installed."""

from __future__ import annotations

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
    # datasets/ and eval/ are dehaze.datasets and dehaze.eval only once installed. The cache stays
    # where mypy keeps it, so that only the first run in a checkout checks everything.
    cache = ROOT / ".mypy_cache"
    layout = cache / "layout"
    package = layout / "dehaze"
    package.mkdir(parents=True, exist_ok=True)
    for link in (*layout.iterdir(), *package.iterdir()):
        if link.is_symlink():
            link.unlink()
    for part in (ROOT / "dehaze").iterdir():
        if part.name != "__pycache__":
            (package / part.name).symlink_to(part)
    for name in ("datasets", "eval"):
        (package / name).symlink_to(ROOT / name)
    for name in ("training", "cli.py"):
        (layout / name).symlink_to(ROOT / name)
    settings = ("--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(cache))
    _run("mypy", *settings, "-p", "dehaze", "-p", "training", "-m", "cli", cwd=layout)
