"""``dehaze evaluate``: what it prints, what it refuses, and with which exit code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from dehaze.commands import main, progress
from dehaze.eval.scoring import Scorer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a SOTS-indoor of two scenes."""
    rng = np.random.default_rng(0)
    for scene in ("1400", "1401"):
        clear = np.kron(rng.integers(0, 200, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        for name, pixels in ((f"gt/{scene}.png", clear), (f"hazy/{scene}_1.png", clear // 2 + 110)):
            path = tmp_path / "data/SOTS/indoor" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return tmp_path / "data"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def reside(root: Path, *arguments: object) -> Result:
    out = ("-o", root.parent / "out") if "-o" not in arguments else ()
    return call("reside", "--root", root, "--subset", "sots-indoor", *out, *arguments)


def test_it_prints_the_table_and_writes_the_result_files(root: Path) -> None:
    done = reside(root, "--method", "cap")
    assert done.exit_code == 0, done.output
    assert "**dehaze-bench v1: PSNR rgb, SSIM wang, saved 8-bit PNG**" in done.stdout
    for method in ("hazy", "dcp", "cap"):
        assert f"| sots-indoor | {method} | 2 | 0 |" in done.stdout
    out = root.parent / "out"
    for name in ("table.md", "table.tex", "scores.csv", "results.json", "sheet.png"):
        assert (out / name).is_file()
        assert name in done.stderr
    assert (out / "table.md").read_text().strip() == done.stdout.strip()


def test_options_reach_the_protocol(root: Path) -> None:
    done = reside(
        root,
        *("--method", "clahe", "--ssim", "ffa", "--psnr", "y601", "--float"),
        *("--crop-border", 2, "--resize", "40x30", "--oracle", "--limit", 1),
    )
    assert done.exit_code == 0, done.output
    protocol = json.loads((root.parent / "out/results.json").read_text())["protocol"]
    expected: dict[str, Any] = {
        "ssim": "ffa",
        "psnr": "y601",
        "unrounded": True,
        "crop_border": 2,
        "resize": [40, 30],
        "oracle": True,
    }
    assert {name: protocol[name] for name in expected} == expected
    assert "1 of 2 images" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (("--method", "magic"), "unknown method 'magic'"),
        (("--method", "ours:steps=x"), "no number"),
        (("--ssim", "best"), "wang, dehazeformer, ffa, skimage7, y, d4"),
        (("--psnr", "best"), "rgb, y601, yiq"),
        (("--solver", "guess"), "fixed-point"),
        (("--recovery", "guess"), "physics"),
        (("--resize", "512"), "no size"),
        (("--resize", "0x5"), "no size"),
        (("--limit", 0), "limit"),
        (("--crop-border", -1), "crop-border"),
        (("--subset", "sots"), "sots-indoor, sots-outdoor"),
        (("--subset", "its"), "https://sites.google.com/view/reside-dehaze-datasets"),
        (("--method", "folder:x=/nowhere"), "no folder"),
    ],
)
def test_wrong_usage_is_refused_with_code_2(
    root: Path, arguments: tuple[object, ...], cause: str
) -> None:
    done = reside(root, "--method", "clahe", *arguments)
    assert done.exit_code == 2
    assert cause in done.stderr
    assert "Traceback" not in done.output
    assert not (root.parent / "out").exists()


def test_a_wrong_root_is_code_2_and_says_where_to_look(tmp_path: Path) -> None:
    done = call("reside", "--root", tmp_path / "nowhere", "--method", "dcp")
    assert done.exit_code == 2
    assert "Expected layout" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_set_evaluated_within_itself_keeps_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "URHI"
    folder.mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (64, 48)).save(folder / f"{name}.png")
    monkeypatch.chdir(folder)
    arguments = ("reside", "--root", "..", "--subset", "urhi", "--method", "dcp")
    tables = []
    for _ in range(2):
        done = call(*arguments)
        assert done.exit_code == 0, done.output
        tables.append(done.stdout)
    assert "| urhi | dcp | 2 | 0 |" in tables[0]
    assert tables[0] == tables[1]
    refused = call(*arguments, "-o", ".")
    assert refused.exit_code == 2
    assert "URHI: is the output folder as well; name another one with -o" in refused.stderr


def test_failures_are_code_1_and_named_on_stderr(root: Path) -> None:
    (root / "SOTS/indoor/gt/1401.png").unlink()
    (root / "SOTS/indoor/gt/1400.png").write_bytes(b"no picture")
    done = reside(root, "--method", "dcp")
    assert done.exit_code == 1
    for part in ("1401_1.png: no ground truth with id 1401", "gt/1400.png"):
        assert part in done.stderr
    assert "| sots-indoor | dcp | 1 | 1 |" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        (("--ssim", "d4"), "window of 51x51 does not fit .* 64x48: leave the picture out, or take"),
        (("--crop-border", 24), "a border of 24 px leaves nothing .* 64x48: crop less, or leave"),
    ],
)
def test_a_picture_too_small_to_score_has_a_cure(
    root: Path, arguments: tuple[object, ...], cure: str
) -> None:
    done = call("folder", root / "SOTS/indoor", "--method", "dcp", "-o", root / "out", *arguments)
    assert done.exit_code == 1
    assert re.search(f"failed: .*, dcp: .*{cure}", done.stderr)


def test_other_settings_need_another_folder_or_overwrite(root: Path) -> None:
    assert reside(root, "--method", "dcp").exit_code == 0
    refused = reside(root, "--method", "dcp", "--ssim", "y")
    assert refused.exit_code == 2
    assert "--overwrite" in refused.stderr
    assert reside(root, "--method", "dcp", "--ssim", "y", "--overwrite").exit_code == 0


def test_an_interrupt_is_code_130_and_the_next_run_continues(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Scorer.score
    calls = []

    def interrupted(self: Scorer, *arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(Scorer, "score", interrupted)
    stopped = reside(root, "--method", "dcp")
    assert stopped.exit_code == 130
    assert "continues" in stopped.stderr
    assert reside(root, "--method", "dcp").exit_code == 0
    assert len(calls) == 3 + 2


def test_a_folder_of_pairs_and_results_of_others(root: Path) -> None:
    folder = root / "SOTS/indoor"
    done = call(
        *("folder", folder, "-o", root.parent / "out"),
        *("--method", f"folder:theirs={folder / 'gt'}"),
    )
    assert done.exit_code == 0, done.output
    assert "| theirs | 2 | 0 | infinite | 1.0000 ± 0.0000 |" in done.stdout
    pairs = call(
        *("folder", folder / "hazy", "--gt", folder / "gt"),
        *("-o", root.parent / "pairs", "--method", "dcp"),
    )
    assert pairs.exit_code == 0, pairs.output
    assert "| indoor | hazy | 2 | 0 |" in pairs.stdout


def test_rendered_haze_has_its_maps_scored(root: Path) -> None:
    clear = root / "SOTS/indoor/gt"
    out = root.parent / "out"
    for _ in range(2):
        done = call("folder", clear, "--render", "fog", "-o", out, "--method", "dcp")
        assert done.exit_code == 0, done.output
        assert "| gt-fog | dcp | 2 | 0 |" in done.stdout
        assert "t, mean abs. error" in done.stdout
        assert "A, angle" in done.stdout
    refused = call("folder", clear, "--render", "fog", "--gt", clear, "-o", out)
    assert refused.exit_code == 2
    unknown = call("folder", clear, "--render", "steam", "-o", out)
    assert unknown.exit_code == 2
    assert "haze, fog, mist, smog, smoke" in unknown.stderr


def test_a_perceptual_metric_without_pyiqa_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    photos = root / "SOTS/indoor/gt"
    missing = call("folder", photos, "--perceptual", "niqe", "-o", root.parent / "out")
    assert missing.exit_code == 2
    assert "pip install 'dehaze-diffusion[iqa]'" in missing.stderr
    nothing = call("folder", root / "none", "-o", root.parent / "out")
    assert nothing.exit_code == 2


def test_progress_is_said_unless_quiet(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    arguments = ("--method", "cap")
    assert "dehaze: 1 of 6 images, about " in reside(root, *arguments).stderr
    quiet = reside(root, *arguments, "--overwrite", "-q")
    assert (quiet.exit_code, quiet.output) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("folder", [ROOT, ROOT / "eval"], ids=["root", "eval"])
def test_the_script_runs_by_itself_from_anywhere(root: Path, folder: Path) -> None:
    script = (ROOT / "eval/reside.py").relative_to(folder)
    arguments = ["--root", root, "--subset", "sots-indoor", "--method", "cap"]
    done = subprocess.run(
        [sys.executable, script, *arguments, "-o", root.parent / "out"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "| sots-indoor | cap | 2 | 0 |" in done.stdout
    assert f"python {script} --root" in done.stdout


def test_the_report_has_every_method_and_its_scores(root: Path) -> None:
    done = reside(root, "--method", "cap")
    assert "report.html" in done.stderr
    page = (root.parent / "out/report.html").read_text()
    (data,) = re.findall(r'<script type="application/json" id="report">(.*?)</script>', page)
    entry = json.loads(data)["entries"][0]
    assert entry["layers"] == ["hazy", "cap", "dcp", "ground truth"]
    records = json.loads((root.parent / "out/results.json").read_text())["images"]
    (record,) = [one for one in records if (one["image"], one["method"]) == (entry["name"], "cap")]
    assert entry["values"]["cap psnr"] == record["values"]["psnr"]


def test_without_truth_there_is_a_report_and_no_score(root: Path) -> None:
    out = root.parent / "out"
    done = call("folder", root / "SOTS/indoor/hazy", "-o", out, "--method", "cap")
    assert done.exit_code == 0, done.output
    assert "there is no ground truth, so nothing is scored" in done.stderr
    assert '"layers":["hazy","cap","dcp"]' in (out / "report.html").read_text()


def test_the_inversion_ceiling_is_compared_without_truth(root: Path) -> None:
    hazy = root / "SOTS/indoor/hazy"
    chosen = ("--method", "inversion", "--steps", 1, "--psnr", "y601", "--crop-border", 2)
    done = call("folder", hazy, "-o", root.parent / "out", "--limit", 1, *chosen)
    assert done.exit_code == 0, done.output
    assert "PSNR y601" in done.stdout


def test_an_option_without_effect_leaves_no_folder(root: Path) -> None:
    out = root.parent / "out"
    done = call("folder", root / "SOTS/indoor/hazy", "-o", out, "--method", "dcp", "--ssim", "y")
    assert done.exit_code == 2
    assert "--ssim has an effect only with ground truth or --method inversion" in done.stderr
    assert not out.exists()
