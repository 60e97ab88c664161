"""mypy is clean on the layout as installed, and knows the main calls' options and results."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
SNIPPET = """
import numpy as np
from PIL import Image
from dehaze import DehazePipeline, EditPipeline

pipe = DehazePipeline.from_pretrained("bundled")
photo = Image.new("RGB", (8, 8))
pipe(photo, stepz=3)
pipe(photo, strength="much")
reveal_type(pipe(photo, num_inference_steps=3))
reveal_type(pipe([photo, np.zeros((8, 8, 3))]))
arrays = [np.zeros((8, 8, 3))]
reveal_type(pipe(arrays))
reveal_type(pipe(photo, return_dict=False))
editor = EditPipeline.from_pipe(pipe)
editor(photo, "a photo", stepz=3)
reveal_type(editor(photo, "a photo", num_inference_steps=3))
reveal_type(editor(photo, "a photo", return_dict=False))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    Version(np.__version__) < Version("2.4"),
    reason="older types of NumPy, the only ones on Python 3.10, do not know the shapes of pictures",
)
def test_mypy_is_clean_and_knows_the_main_calls() -> None:
    """One run of mypy serves both, since most of its time goes into the libraries."""
    # The cache stays where mypy keeps it: only the first run in a checkout checks everything.
    cache = ROOT / ".mypy_cache"
    layout = cache / "layout"
    runpy.run_path(str(ROOT / ".ci" / "layout.py"))["lay_out"](layout)
    (layout / "main_calls.py").write_text(SNIPPET)
    settings = ("--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(cache))
    # The benchmarks are scripts that import one another from their own folder.
    scripts = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))
    modules = [f"-m{name}" for name in ("cli", "main_calls", *scripts)]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *settings, "-pdehaze", "-ptraining", *modules],
        cwd=layout,
        env=os.environ | {"MYPYPATH": str(ROOT / "benchmarks")},
        capture_output=True,
        text=True,
        check=False,
    )
    said: dict[int, str] = {}
    elsewhere = []
    for line in done.stdout.splitlines():
        if found := re.match(r"main_calls\.py:(\d+): ", line):
            said[int(found[1])] = said.get(int(found[1]), "") + line
        elif ": error:" in line:
            elsewhere.append(line)
    assert not elsewhere, "\n".join(elsewhere)
    assert sorted(said) == [8, 9, 10, 11, 13, 14, 16, 17, 18], done.stdout + done.stderr
    assert all("error" in said[line] for line in (8, 9, 16))
    assert 'Revealed type is "dehaze.pipelines.dehazing.DehazeResult"' in said[10]
    assert "list[dehaze.pipelines.dehazing.DehazeResult]" in said[11]
    assert said[13] == said[11].replace(":11:", ":13:")
    assert "tuple[Any]" in said[14]
    assert 'Revealed type is "dehaze.pipelines.edit.EditResult"' in said[17]
    assert "tuple[Any]" in said[18]
