"""A misspelt option is an error to the type checker and at run time, not a wish ignored."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.pipelines.edit import EditPipeline

ROOT = Path(__file__).resolve().parents[2]
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
reveal_type(pipe(photo, return_dict=False))
editor = EditPipeline.from_pipe(pipe)
editor(photo, "a photo", stepz=3)
reveal_type(editor(photo, "a photo", num_inference_steps=3))
reveal_type(editor(photo, "a photo", return_dict=False))
"""


def test_mypy_knows_the_main_calls_options_and_result(tmp_path: Path) -> None:
    cache = ROOT / ".mypy_cache"
    layout = cache / "layout"
    runpy.run_path(str(ROOT / ".ci" / "layout.py"))["lay_out"](layout)
    snippet = tmp_path / "snippet.py"
    snippet.write_text(SNIPPET)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")),
            *("--cache-dir", str(cache), str(snippet)),
        ],
        cwd=layout, capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [line.partition("snippet.py:")[2] for line in done.stdout.splitlines()]
    said = {int(line.partition(":")[0]): line for line in lines[::-1] if line}
    assert done.returncode == 1
    assert "error" in said[8]
    assert "error" in said[9]
    assert 'Revealed type is "dehaze.pipelines.dehazing.DehazeResult"' in said[10]
    assert "list[dehaze.pipelines.dehazing.DehazeResult]" in said[11]
    assert "tuple[Any]" in said[12]
    assert "error" in said[14]
    assert 'Revealed type is "dehaze.pipelines.edit.EditResult"' in said[15]
    assert "tuple[Any]" in said[16]


def test_an_unknown_option_is_refused_at_run_time(
    pipeline: DehazePipeline, photo: NDArray[np.float32]
) -> None:
    with pytest.raises(TypeError, match="stepz"):
        pipeline(photo, stepz=3)
    editor = EditPipeline.from_pipe(pipeline)
    with pytest.raises(TypeError, match="stepz"):
        editor(photo, "a photo with haze", "a photo", stepz=3)
    with pytest.raises(TypeError, match="stepz"):
        pipeline.invert(photo, stepz=3)
