"""``dehaze ui`` and ``dehaze serve`` in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def running(
    command: str, model: Path, *options: str
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """``dehaze ui`` or ``dehaze serve`` on a free port: its address and its process."""
    pytest.importorskip("fastapi", reason="the extra ui is not installed")
    pytest.importorskip("uvicorn", reason="the extra ui is not installed")
    call = [sys.executable, "-c", "from dehaze.commands import main; main()", command]
    process = subprocess.Popen(
        [*call, "--port", "0", "--model", str(model), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "http://" in line, process.communicate(timeout=60)
        yield line.split()[2], process
    finally:
        process.terminate()
        process.communicate(timeout=60)
