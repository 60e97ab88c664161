"""``dehaze run --report``: the page beside the results."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from dehaze.commands import main
from dehaze.photos import write_photo


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["run", *map(str, arguments)])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg"):
        write_photo(folder / name, rng.uniform(0.4, 1, (48, 64, 3)).astype(np.float32))
    (folder / "broken.png").write_bytes(b"no photo")
    return folder


def entries(output: Path) -> list[dict[str, Any]]:
    text = (output / "report.html").read_text()
    (data,) = re.findall(r'<script type="application/json" id="report">(.*?)</script>', text)
    return list(json.loads(data)["entries"])


def test_a_prior_gives_a_report_without_maps(photos: Path, tmp_path: Path) -> None:
    done = call(photos, "-o", tmp_path / "out", "--method", "dcp", "--report")
    assert done.exit_code == 1
    assert "report.html" in done.stderr
    found = {entry["name"]: entry for entry in entries(tmp_path / "out")}
    assert found["broken.png"]["status"] == "failed"
    assert found["a.png"]["layers"] == ["photo", "result"]


def test_the_model_gives_maps_and_density(photos: Path, tmp_path: Path, random_model: Path) -> None:
    (photos / "broken.png").unlink()
    done = call(photos, "-o", tmp_path / "out", "--model", random_model, "--report")
    assert done.exit_code == 0, done.output
    for entry in entries(tmp_path / "out"):
        assert entry["layers"] == ["photo", "result", "haze attention", "transmission"]
        assert 0 <= entry["values"]["density"] <= 1


def test_a_report_asked_for_later_does_no_photo_again(photos: Path, tmp_path: Path) -> None:
    arguments = (photos, "-o", tmp_path / "out", "--method", "dcp")
    call(*arguments)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.*g")}
    call(*arguments, "--report")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [entry["status"] for entry in entries(tmp_path / "out")].count("kept") == 2


def test_a_page_of_ones_own_is_not_replaced(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.html").write_text("mine")
    done = call(photos, "-o", tmp_path / "out", "--method", "dcp", "--report")
    assert done.exit_code == 2
    assert "report.html: exists and is not a report of dehaze" in done.stderr
    assert (tmp_path / "out" / "report.html").read_text() == "mine"
