"""``dehaze evaluate pie-bench``: edits or results in, metrics out, failures named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from dehaze.commands import main


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "PIE-Bench"
    folder = made / "annotation_images" / "0_random"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    entries = {}
    for key in ("a", "b"):
        Image.fromarray(rng.integers(0, 256, (512, 512, 3)).astype(np.uint8)).save(
            folder / f"{key}.png"
        )
        entries[key] = {
            "image_path": f"0_random/{key}.png",
            "original_prompt": "a street with [haze]",
            "editing_prompt": "a street with [snow]",
            "editing_type_id": "1",
            "blended_word": "haze snow",
            "mask": [2000, 5000],
        }
    (made / "mapping_file.json").write_text(json.dumps(entries))
    return made


def call(root: Path, *arguments: object) -> Result:
    settings = ["evaluate", "pie-bench", "--root", root, "-o", root.parent / "out", *arguments]
    # Folders that hold no weights: the answer must not depend on this machine's cache.
    settings += ["--dino", root, "--clip", root]
    return CliRunner().invoke(main, list(map(str, settings)))


def test_pictures_are_edited_saved_and_scored(root: Path, random_model: Path) -> None:
    options = ("--model", random_model, "--steps", 2, "--blend", "--mode", "negative-prompt")
    done = call(root, *options, "--limit", 1)
    assert done.exit_code == 0, done.output
    out = root.parent / "out"
    assert Image.open(out / "results" / "0_random" / "a.png").size == (512, 512)
    content = json.loads((out / "pie_bench.json").read_text())
    assert 0 < content["means"]["psnr_unedit_part"] < 60
    assert "DINO" in content["missing"]["structure_distance"]
    assert "not computed" in done.stdout
    assert "negative-prompt, guidance 7.5: 1 edits scored" in done.stdout
    # An edit that fails now leaves nothing of the one before.
    mapping = json.loads((root / "mapping_file.json").read_text())
    mapping["a"]["blended_word"] = "haze rain"
    (root / "mapping_file.json").write_text(json.dumps(mapping))
    failed = call(root, *options, "--limit", 1)
    assert failed.exit_code == 1
    assert "failed: a: " in failed.stderr
    assert not (out / "results" / "0_random" / "a.png").exists()


def test_each_solver_and_criterion_is_a_row(root: Path, stable_diffusion_1: Path) -> None:
    options = ("--model", stable_diffusion_1, "--steps", 2, "--guidance", 1, "--limit", 1)
    rows = ("--solver", "ddim,fixed-point", "--criterion", "intra-path,inter-path")
    done = call(root, *options, *rows, "--iterations", 2, "--tolerance", 1e-3)
    assert done.exit_code == 0, done.output
    out = root.parent / "out"
    content = json.loads((out / "pie_bench.json").read_text())
    names = ["ddim", "fixed-point-intra-path", "fixed-point-inter-path"]
    assert [method.partition(":")[0] for method in content["methods"]] == names
    means = [values["psnr_unedit_part"] for values in content["methods"].values()]
    assert means[0] != means[1]
    for name in names:
        assert (out / name / "results" / "0_random" / "a.png").is_file()
        assert f"| {name}: " in done.stdout
    assert len((out / "pie_bench.csv").read_text().splitlines()) == 1 + 3
    wrong = call(root, "--solver", "ddim,guess")
    assert wrong.exit_code == 2
    assert "'guess' is not one of ddim" in " ".join(wrong.stderr.split())


def test_foreign_results_are_scored_and_missing_named(root: Path) -> None:
    results = root.parent / "results" / "0_random"
    results.mkdir(parents=True)
    source = np.asarray(Image.open(root / "annotation_images" / "0_random" / "a.png"))
    # A strip of four panels, as the published code writes it.
    strip = np.concatenate([source // 2, source // 3, source // 4, source], axis=1)
    Image.fromarray(strip).save(results / "a.png")
    done = call(root, "--results", root.parent / "results")
    assert done.exit_code == 1
    content = json.loads((root.parent / "out" / "pie_bench.json").read_text())
    assert content["means"]["mse_unedit_part"] == 0.0
    assert content["means"]["ssim_unedit_part"] == pytest.approx(1.0)
    # Identical backgrounds: infinite, left out, counted.
    assert content["means"]["psnr_unedit_part"] is None
    assert content["left_out"]["psnr_unedit_part"] == 1
    assert "failed: b: " in done.stderr


def test_a_folder_that_is_no_pie_bench_is_named(tmp_path: Path) -> None:
    done = call(tmp_path / "missing")
    assert done.exit_code == 2
    assert "mapping_file.json" in done.stderr
