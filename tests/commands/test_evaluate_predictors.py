"""``dehaze evaluate predictors``: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from dehaze.commands import main
from dehaze.eval import predictors


def call(photos: Path, *arguments: object) -> Result:
    out = photos.parent / "out"
    settings = ["evaluate", "predictors", photos, "-o", out, *arguments]
    return CliRunner().invoke(main, list(map(str, settings)))


def test_it_prints_the_table_and_writes_four_files(
    tmp_path: Path,
    random_model: Path,
    photo: NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("matplotlib")
    # Two evaluations solve no step of a random network: what is not known is no number anywhere.
    monkeypatch.setattr(predictors, "_LONGEST", 2)
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a", "b"):
        Image.fromarray((255 * photo).astype(np.uint8)).save(photos / f"{name}.png")
    done = call(photos, "--model", random_model, "--steps", 1, "--limit", 1)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("1 photo.")
    assert "| 0 |" in done.stdout
    assert "nan" not in done.stdout
    out = tmp_path / "out"
    assert (out / "predictors.md").read_text().strip() == done.stdout.strip()
    errors = json.loads((out / "predictors.json").read_text())["errors"]
    assert errors[0]["mean"] is None
    for suffix in ("json", "csv", "png"):
        assert (out / f"predictors.{suffix}").is_file()
        assert f"predictors.{suffix}" in done.stderr


@pytest.mark.parametrize(("arguments", "cause"), [(("--steps", "0"), "--steps"), ((), "missing")])
def test_bad_input_is_refused_by_name(
    tmp_path: Path, arguments: tuple[str, ...], cause: str
) -> None:
    done = call(tmp_path / "missing", *arguments)
    assert done.exit_code == 2
    assert cause in done.stderr
    assert not (tmp_path / "out").exists()
