"""``dehaze evaluate convergence``: what it prints, writes and refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from dehaze.commands import main


def call(photos: Path, *arguments: object) -> Result:
    out = photos.parent / "out"
    settings = ["evaluate", "convergence", photos, "-o", out, *arguments]
    return CliRunner().invoke(main, list(map(str, settings)))


@pytest.mark.slow
def test_it_prints_the_table_and_writes_it_with_its_plot(
    tmp_path: Path, random_model: Path, photo: NDArray[np.float32]
) -> None:
    pytest.importorskip("matplotlib")
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a", "b"):
        Image.fromarray((255 * photo).astype(np.uint8)).save(photos / f"{name}.png")
    done = call(photos, "--model", random_model, "--steps", "1,2", "--limit", 1)
    assert done.exit_code == 0, done.output
    assert "\n| 1 | " in done.stdout
    assert "\n| 2 | " in done.stdout
    out = tmp_path / "out"
    assert (out / "convergence.md").read_text().strip() == done.stdout.strip()
    assert Image.open(out / "convergence.png").size[0] > 300


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [(("--steps", "0"), "positive"), ((), "missing")],
)
def test_bad_input_is_refused_by_name(
    tmp_path: Path, arguments: tuple[str, ...], cause: str
) -> None:
    done = call(tmp_path / "missing", *arguments)
    assert done.exit_code == 2
    assert cause in done.stderr
    assert not (tmp_path / "out").exists()
