"""Which photos ``dehaze evaluate`` takes of a folder: all of them, and no result among them."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from dehaze.commands import main

pytest.importorskip("matplotlib")

STUDIES = ("appearance", "convergence", "inversion", "predictors")


def call(study: str, folder: Path, output: Path) -> Result:
    return CliRunner().invoke(main, ["evaluate", study, str(folder), "-o", str(output)])


@pytest.mark.parametrize("study", STUDIES)
def test_two_files_of_one_name_are_refused(tmp_path: Path, study: str) -> None:
    for name in ("a.jpg", "a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    done = call(study, tmp_path, tmp_path / "out")
    assert done.exit_code == 2
    assert (
        "a.jpg: the hazy image a is claimed by a.jpg, a.png; keep one (and 1 more)" in done.stderr
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("study", [*STUDIES, "folder", "variants"])
def test_a_result_of_an_earlier_run_is_no_photo(tmp_path: Path, study: str) -> None:
    output = tmp_path / "photos" / "runs" / "out"
    output.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(output / "plot.png")
    done = call(study, tmp_path / "photos", output)
    assert done.exit_code == 2
    assert "photos: holds no picture" in done.stderr
    done = call(study, output, output)
    assert done.exit_code == 2
    assert "is the output folder as well" in done.stderr
