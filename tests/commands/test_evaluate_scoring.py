"""What ``evaluate reside`` and ``evaluate folder`` refuse, and say of sets without truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from dehaze.commands import main
from dehaze.eval.perceptual import PerceptualMetric
from dehaze.photos import write_photo

CEILINGS = "the ceilings are left out"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a pair of SOTS-outdoor and a photo of RTTS, which has no ground truth."""
    clear = np.kron(np.random.default_rng(0).random((6, 8, 3)), np.ones((8, 8, 1)))
    for name, pixels in (
        ("SOTS/outdoor/gt/0001.png", clear),
        ("SOTS/outdoor/hazy/0001_0.8_0.2.png", clear * 0.5 + 0.4),
        ("RTTS/JPEGImages/a.png", clear * 0.4 + 0.5),
    ):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True)
        write_photo(path, pixels.astype(np.float32))
    return tmp_path / "data"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def folder(root: Path, *arguments: object) -> Result:
    return call("folder", root / "SOTS/outdoor", "-o", root.parent / "out", *arguments)


def reside(root: Path, subsets: str, *arguments: object) -> Result:
    chosen = ("--root", root, "--subset", subsets, "-o", root.parent / "out")
    return call("reside", *chosen, *arguments)


@pytest.mark.parametrize("name", ["sheet.png", "results.json", "report.html"])
def test_an_output_folder_with_a_file_of_the_user(root: Path, name: str) -> None:
    own = root.parent / "out" / name
    own.parent.mkdir()
    own.write_bytes(b"the user's own")
    done = folder(root, "--method", "dcp")
    assert done.exit_code == 2
    assert f"{own}: exists and was not made by an evaluation; name another" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(own.parent.iterdir()) == [own]
    assert own.read_bytes() == b"the user's own"


def test_settings_of_another_program_are_one_line(root: Path) -> None:
    own = root.parent / "out/settings.json"
    own.parent.mkdir()
    own.write_text("{}")
    done = folder(root, "--method", "dcp")
    assert done.exit_code == 2
    assert f"{own}: was not made by an evaluation; name another folder" in done.stderr
    assert done.stderr.count("\n") == 1
    assert own.read_text() == "{}"


def test_a_page_of_the_user_beside_a_run_hides_no_table(root: Path) -> None:
    first = folder(root, "--method", "dcp")
    page = root.parent / "out/report.html"
    page.write_text("my own page")
    again = folder(root, "--method", "dcp")
    assert again.exit_code == 2
    assert again.stdout == first.stdout
    assert f"{page}: exists and is not a report of dehaze; move it elsewhere" in again.stderr
    assert page.read_text() == "my own page"


def test_an_oracle_refuses_the_strength_of_a_row(root: Path) -> None:
    done = folder(root, "--method", "ours:strength=0.5", "--oracle")
    assert done.exit_code == 2
    assert "strength=0.5 has no effect with --oracle" in done.stderr
    assert not (root.parent / "out").exists()


def test_ceilings_of_a_row_are_at_its_working_size(root: Path) -> None:
    done = folder(root, "--method", "ours:short_side=32", "--steps", 1)
    assert done.exit_code == 0, done.output
    for ceiling in ("codec", "inversion"):
        assert f"| outdoor | {ceiling}:short_side=32 | 1 | 0 |" in done.stdout
        assert f"| outdoor | {ceiling} |" not in done.stdout


def test_sets_without_truth_are_named_beside_others(root: Path) -> None:
    done = reside(root, "sots-outdoor,rtts", "--method", "ours", "--steps", 1)
    assert done.exit_code == 0, done.output
    assert "there is no ground truth in rtts, so nothing is compared there" in done.stderr
    assert CEILINGS in done.stderr
    assert "nothing is scored" not in done.stderr
    # Without a model there would be no ceiling.
    plain = reside(root, "sots-outdoor,rtts", "--method", "dcp")
    assert "there is no ground truth in rtts" in plain.stderr
    assert CEILINGS not in plain.stderr
    alone = reside(root, "rtts", "--method", "dcp")
    assert "there is no ground truth, so nothing is scored" in alone.stderr
    paired = reside(root, "sots-outdoor", "--method", "dcp")
    assert "no ground truth" not in paired.stderr


def test_a_metric_that_needs_truth_names_the_set_without(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = PerceptualMetric("lpips", full_reference=True, lower_is_better=True, model=None)
    monkeypatch.setattr("dehaze.eval.perceptual.load_perceptual_metric", lambda *of: metric)
    done = reside(root, "sots-outdoor,rtts", "--method", "dcp", "--perceptual", "lpips")
    assert done.exit_code == 2
    assert "lpips compares with ground truth, and there is none in rtts: leave out" in done.stderr
