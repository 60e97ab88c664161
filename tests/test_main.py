"""``python -m dehaze`` is the command line."""

from __future__ import annotations

import subprocess
import sys

import dehaze


def test_python_m_dehaze() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dehaze", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"dehaze, version {dehaze.__version__}\n"
