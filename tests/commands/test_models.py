"""dehaze models: list, info and verify."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
from click.testing import CliRunner, Result

from dehaze.commands import main
from dehaze.models import load, source
from dehaze.models.hashes import write_manifest
from dehaze.models.known_answer import ANSWER_FILE, write_known_answer
from dehaze.models.load import load_parts
from dehaze.models.source import BUNDLED_FOLDER, ModelSource

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def models(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["models", *arguments])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache with one text-to-image model and one model of another kind."""
    for name in ("models--fog--diffusion", "models--fog--words"):
        snapshot = tmp_path / name / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        (tmp_path / name / "refs").mkdir()
        (tmp_path / name / "refs/main").write_text(COMMIT)
        (tmp_path / name / "blobs").mkdir()
        file = "model_index.json" if name.endswith("diffusion") else "vocabulary.json"
        (tmp_path / name / "blobs/0").write_bytes(bytes(1_500_000))
        (snapshot / file).symlink_to(tmp_path / name / "blobs/0")
    scan = huggingface_hub.scan_cache_dir
    monkeypatch.setattr(huggingface_hub, "scan_cache_dir", lambda: scan(tmp_path))
    return tmp_path


def test_list_names_the_bundled_model_and_the_hubs_that_are_here(cache: Path) -> None:
    bundled, cached = models("list").stdout.splitlines()
    assert bundled.startswith("bundled: ")
    assert bundled.endswith(f" MB in {BUNDLED_FOLDER}")
    folder = cache / "models--fog--diffusion/snapshots" / COMMIT
    assert cached == f"fog/diffusion at {COMMIT}: 1.5 MB in {folder}"
    records = [json.loads(line) for line in models("list", "--json").stdout.splitlines()]
    assert [record["model"] for record in records] == ["bundled", "fog/diffusion"]
    assert records[1]["revision"] == COMMIT


def test_list_works_without_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = huggingface_hub.scan_cache_dir
    monkeypatch.setattr(huggingface_hub, "scan_cache_dir", lambda: scan(tmp_path / "none"))
    assert models("list").stdout.count("\n") == 1


def test_info_says_what_a_model_is(random_model: Path) -> None:
    text = models("info", str(random_model))
    assert text.exit_code == 0, text.output
    assert "unet: UNet2DConditionModel, " in text.stdout
    assert "prediction: v_prediction\n" in text.stdout
    assert {"short_side: 16", "steps: 4"} <= set(text.stdout.splitlines())
    facts = json.loads(models("info", str(random_model), "--json").stdout)
    assert (facts["short_side"], facts["spacing"]) == (16, "noisy-end")


@pytest.mark.parametrize("command", ["info", "verify"])
def test_a_model_is_looked_for_once(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[ModelSource] = []

    def counted(given: ModelSource) -> Path:
        found.append(given)
        return BUNDLED_FOLDER

    monkeypatch.setattr(source, "find_model", counted)
    monkeypatch.setattr(load, "find_model", counted)
    assert models(command).exit_code == 0
    assert found == [ModelSource()]


def test_verify_tells_whole_from_damaged_by_its_exit_code(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "weights.safetensors").write_bytes(b"weights")
    unknown = models("verify", str(tmp_path))
    assert unknown.exit_code == 1
    assert "has files that no hash is published for" in unknown.stderr

    write_manifest(tmp_path)
    whole = models("verify", str(tmp_path))
    assert (whole.exit_code, whole.stderr) == (0, "")
    assert whole.stdout == f"2 of 2 files are whole; in {tmp_path}\n"
    assert models("verify", str(tmp_path), "-q").output == ""

    (tmp_path / "weights.safetensors").write_bytes(b"wejghts")
    changed = models("verify", str(tmp_path))
    assert changed.exit_code == 1
    assert f"changed: {tmp_path / 'weights.safetensors'}\n" in changed.stderr
    assert f"dehaze: {tmp_path} is damaged: get the model again\n" in changed.stderr
    records = models("verify", str(tmp_path), "--json")
    assert records.exit_code == 1
    assert [json.loads(line)["state"] for line in records.stdout.splitlines()] == [
        "whole",
        "changed",
    ]


def test_verify_without_an_argument_checks_the_bundled_model() -> None:
    assert models("verify").stdout.endswith(
        f"files are whole, its known answer is given; in {BUNDLED_FOLDER}\n"
    )


def test_verify_tells_another_answer_by_its_exit_code(random_model: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(random_model, tmp_path / "model"))
    write_known_answer(model, load_parts(ModelSource(model)))
    known = json.loads((model / ANSWER_FILE).read_text())
    known["noise"][0] += 1.0
    (model / ANSWER_FILE).write_text(json.dumps(known))
    write_manifest(model)
    told = models("verify", str(model))
    assert told.exit_code == 1
    assert "does not give its known answer: noise is" in told.stderr
    last = models("verify", str(model), "--json").stdout.splitlines()[-1]
    assert json.loads(last) == {"name": "known answer", "state": "changed"}


def test_info_names_ignored_scheduler_settings(stable_diffusion_1: Path) -> None:
    said = models("info", str(stable_diffusion_1)).stdout
    assert "; the steps are DDIM's\n" in said
    assert "scheduler_ignored: skip_prk_steps = True\n" in said


@pytest.mark.parametrize("command", ["info", "verify"])
def test_a_model_that_is_not_there_is_one_line_and_exit_code_2(
    tmp_path: Path, command: str
) -> None:
    result = models(command, str(tmp_path))
    assert result.exit_code == 2
    assert result.stderr.startswith(f"dehaze: {tmp_path} has no model_index.json")
    assert result.stderr.count("\n") == 1


def test_an_invalid_manifest_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "SHA256SUMS").write_text("torn")
    result = models("verify", str(tmp_path))
    assert result.exit_code == 2
    assert "'torn' is not a hash and a name" in result.stderr
