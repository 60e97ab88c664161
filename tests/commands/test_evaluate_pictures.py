"""Which photos ``dehaze evaluate`` takes of a folder: all of them, and no result among them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from dehaze.commands import main
from dehaze.eval import convergence, predictors

pytest.importorskip("matplotlib")

# The least work of each study.
SMALL = {
    "appearance": ("--words", "night", "--method", "swap"),
    "convergence": ("--steps", "1"),
    "inversion": ("--steps", "1", "--method", "ddim"),
    "predictors": ("--steps", "1"),
}
STUDIES = ("appearance", "convergence", "inversion", "predictors")


def slow(study: str) -> Any:
    return pytest.param(study, marks=pytest.mark.slow)


def call(study: str, folder: Path, output: Path, *more: object) -> Result:
    arguments = ["evaluate", study, folder, "-o", output, *more]
    return CliRunner().invoke(main, list(map(str, arguments)))


@pytest.mark.parametrize(
    "study", ["appearance", slow("convergence"), "inversion", slow("predictors")]
)
def test_a_broken_photo_is_named_and_the_others_are_done(
    tmp_path: Path,
    random_model: Path,
    photo: NDArray[np.float32],
    study: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(convergence, "_LONGEST", 2)
    monkeypatch.setattr(convergence, "_RACE_LIMIT", 2)
    monkeypatch.setattr(predictors, "_LONGEST", 2)
    folder, output = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for name in ("b", "c"):
        Image.fromarray((255 * photo).astype(np.uint8)).save(folder / f"{name}.png")
    (folder / "a.png").write_bytes((folder / "b.png").read_bytes()[:90])
    done = call(study, folder, output, "--model", random_model, *SMALL[study])
    assert done.exit_code == 1, done.output
    assert f"left out: {folder}/a.png: " in done.stderr
    table = (output / f"{study}.md").read_text()
    assert table.startswith("2 of 3 photos")
    assert f"- left out: {folder}/a.png: " in table


@pytest.mark.parametrize("study", ["folder", "inversion", slow("variants")])
def test_a_broken_photo_under_rendered_haze_is_named(
    tmp_path: Path, random_model: Path, photo: NDArray[np.float32], study: str
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray((255 * photo).astype(np.uint8)).save(folder / "b.png")
    (folder / "a.png").write_bytes((folder / "b.png").read_bytes()[:90])
    least = {"folder": ("--method", "hazy"), "variants": ("--model", random_model, "--steps", 1)}
    more = least.get(study, ("--model", random_model, *SMALL["inversion"]))
    done = call(study, folder, tmp_path / "out", "--render", "haze", *more)
    assert done.exit_code == 1, done.output
    assert f"{folder}/a.png: " in done.stderr
    assert (tmp_path / "out/rendered/haze-0/hazy/b.png").is_file()
    (folder / "b.png").unlink()
    done = call(study, folder, tmp_path / "out", "--render", "haze", *more)
    assert done.exit_code == 2, done.output
    assert "no picture can be read: " in done.stderr


def test_a_folder_holds_rendered_haze_of_one_seed(
    tmp_path: Path, photo: NDArray[np.float32]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a", "b"):
        Image.fromarray((255 * photo).astype(np.uint8)).save(folder / f"{name}.png")
    arguments = ("folder", folder, tmp_path / "out", "--render", "fog", "--method", "hazy")
    for more in ((), ("--seed", 1, "--limit", 1, "--overwrite")):
        done = call(*arguments, *more)
        assert done.exit_code == 0, done.output
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / "out/rendered" / of).glob("hazy/*")}
        for of in ("fog-0", "fog-1")
    )
    assert len(first) == 2
    assert len(second) == 1
    assert not set(first.values()) & set(second.values())


@pytest.mark.parametrize("study", [*STUDIES, "folder", "variants"])
def test_a_subfolder_that_cannot_be_listed_is_named(
    tmp_path: Path, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "photos" / "closed"
    closed.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "a.png")
    scandir = os.scandir

    def refusing(path: object) -> object:
        if str(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(closed))
        return scandir(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", refusing)
    done = call(study, tmp_path / "photos", tmp_path / "out")
    assert done.exit_code == 2
    assert f"{closed}: cannot be read or written (Permission denied)" in done.stderr


def test_a_sheet_of_an_earlier_run_does_not_stay(tmp_path: Path) -> None:
    """Without ground truth there is none."""
    folder, output = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    Image.new("RGB", (16, 16)).save(folder / "sheet.png")
    assert call("folder", folder, output, "--method", "hazy").exit_code == 0
    Image.new("RGB", (16, 16)).save(output / "sheet.png")
    done = call("folder", folder, output, "--method", "hazy")
    assert done.exit_code == 0, done.output
    assert not (output / "sheet.png").exists()
    assert "sheet.png" not in done.stderr


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


def test_a_result_in_another_folder_is_no_photo(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (64, 48)).save(folder / f"{name}.png")
    for output in ("out1", "out2"):
        done = call("folder", folder, folder / output, "--method", "cap")
        assert done.exit_code == 0, done.output
        assert "| photos | cap | 2 | 0 |" in done.stdout
    assert (folder / "out1/images/photos/cap/a.png").is_file()
    assert "photos: folder with results of another evaluation, not searched: 1" in done.stdout


@pytest.mark.parametrize("named", ["hazy", "gt"])
@pytest.mark.parametrize("study", ["folder", "variants"])
def test_an_output_among_pairs_is_refused(tmp_path: Path, study: str, named: str) -> None:
    for folder in ("hazy", "gt"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (64, 48)).save(tmp_path / folder / "sheet.png")
    output = tmp_path / named
    before = (output / "sheet.png").read_bytes()
    done = call(study, tmp_path / "hazy", output, "--gt", tmp_path / "gt")
    assert done.exit_code == 2
    assert f"{output}: is the output folder as well; name another one with -o" in done.stderr
    assert [path.name for path in output.iterdir()] == ["sheet.png"]
    assert (output / "sheet.png").read_bytes() == before
