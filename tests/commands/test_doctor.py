"""doctor: exit code 0 exactly when dehaze run can work, and a cure for each fault."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

from dehaze.commands import doctor as module
from dehaze.commands import main
from dehaze.commands.doctor import Check, diagnose
from dehaze.models import ModelError
from dehaze.models.hashes import write_manifest
from dehaze.models.parts import ModelParts


@pytest.fixture
def _loadable_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A bundled model that gives its known answer, even if the real one does not."""
    (tmp_path / "bundled").mkdir()
    (tmp_path / "bundled/unet.safetensors").write_bytes(bytes(2_500_000))
    monkeypatch.setattr("dehaze.models.source.BUNDLED_FOLDER", tmp_path / "bundled")
    monkeypatch.setattr("dehaze.models.load.load_parts", lambda source: None)
    monkeypatch.setattr("dehaze.models.known_answer.check_known_answer", lambda *unused: True)


def named(checks: list[Check], name: str) -> Check:
    (check,) = (check for check in checks if check.name == name)
    return check


@pytest.mark.usefixtures("_loadable_model")
def test_sound_installation_passes() -> None:
    checks = diagnose()
    assert named(checks, "torch").detail == metadata.version("torch")
    assert named(checks, "bundled model").detail == "2.5 MB, gives its known answer"
    assert named(checks, "device").works
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0
    assert "BROKEN" not in result.output
    assert result.output.endswith("dehaze run can work here.\n")


def test_every_dependency_of_the_package_is_looked_at() -> None:
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    (listed,) = re.findall(
        r"^dependencies = \[\n(.*?)^\]", project.read_text(), re.MULTILINE | re.DOTALL
    )
    needed = set(re.findall(r'^    "([\w.-]+)[<>=]', listed, re.MULTILINE))
    assert needed == set(module.REQUIRED)


@pytest.mark.usefixtures("_loadable_model")
def test_json_says_the_same_with_the_same_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(main, ["doctor", "--json"])
    assert result.exit_code == 0
    checks = [json.loads(line) for line in result.stdout.splitlines()]
    assert [check["name"] for check in checks] == [check.name for check in diagnose()]
    monkeypatch.setitem(module.REQUIRED, "fog-tools", "fog_tools")
    result = CliRunner().invoke(main, ["doctor", "--json"])
    assert result.exit_code == 1
    (wrong,) = (
        check
        for check in map(json.loads, result.stdout.splitlines())
        if check["required"] and not check["works"]
    )
    assert (wrong["name"], wrong["cure"]) == ("fog-tools", 'pip install "fog-tools"')


@pytest.mark.usefixtures("_loadable_model")
def test_a_damaged_model_is_told_by_its_hashes(tmp_path: Path) -> None:
    write_manifest(tmp_path / "bundled")
    assert named(diagnose(), "bundled model").works
    (tmp_path / "bundled/unet.safetensors").write_bytes(bytes(2_499_999))
    check = named(diagnose(), "bundled model")
    assert not check.works
    assert check.detail == "is damaged (unet.safetensors)"
    assert check.required


@pytest.mark.usefixtures("_loadable_model")
def test_a_missing_package_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.REQUIRED, "fog-tools", "fog_tools")
    check = named(diagnose(), "fog-tools")
    assert check == Check("fog-tools", False, "is not installed", 'pip install "fog-tools"')
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert 'BROKEN  fog-tools: is not installed; pip install "fog-tools"\n' in result.output
    assert "cannot work here" in result.output
    quiet = CliRunner().invoke(main, ["doctor", "-q"])
    assert (quiet.exit_code, quiet.stdout) == (1, "")
    line = 'dehaze: BROKEN  fog-tools: is not installed; pip install "fog-tools"\n'
    assert quiet.stderr == line


@pytest.mark.usefixtures("_loadable_model")
def test_a_broken_package_is_told_from_a_missing_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "torn_package.py").write_text("raise RuntimeError('no operator\\nmore')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(module.REQUIRED, "torn", "torn_package")
    assert named(diagnose(), "torn").detail == "cannot be imported (no operator)"


def test_a_missing_model_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("dehaze.models.source.BUNDLED_FOLDER", tmp_path)
    check = named(diagnose(), "bundled model")
    assert not check.works
    assert check.required
    assert check.detail == "its files are missing"


@pytest.mark.usefixtures("_loadable_model")
def test_a_model_that_does_not_load_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: object) -> None:
        raise ModelError("unet: the file\nis torn")

    monkeypatch.setattr("dehaze.models.load.load_parts", fail)
    check = named(diagnose(), "bundled model")
    assert not check.works
    assert check.detail == "cannot be used (unet: the file is torn)"


@pytest.mark.usefixtures("_loadable_model")
@pytest.mark.parametrize("missing", [True, False])
def test_a_model_with_another_answer_is_broken(
    monkeypatch: pytest.MonkeyPatch, missing: bool
) -> None:
    def check(*unused: object) -> bool:
        if missing:
            return False
        raise ModelError("bundled does not give its known answer: embedding is 0.9 apart")

    monkeypatch.setattr("dehaze.models.known_answer.check_known_answer", check)
    found = named(diagnose(), "bundled model")
    assert not found.works
    assert "known answer" in found.detail


def test_the_real_bundled_model_gives_its_answer() -> None:
    assert named(diagnose(), "bundled model").works


@pytest.mark.parametrize("loader", ["load.load_parts", "plain.load.load_plain_parts"])
def test_the_model_is_asked_as_either_way_loads_it(
    monkeypatch: pytest.MonkeyPatch, loader: str
) -> None:
    module, _, name = f"dehaze.models.{loader}".rpartition(".")
    load = getattr(import_module(module), name)

    def spoilt(*arguments: object) -> ModelParts:
        parts: ModelParts = load(*arguments)
        parts.unet.conv_in.weight.mul_(1.5)
        return parts

    monkeypatch.setattr(f"{module}.{name}", spoilt)
    found = named(diagnose(), "bundled model")
    assert not found.works
    assert "does not give its known answer: noise is" in found.detail


@pytest.mark.usefixtures("_loadable_model")
def test_a_missing_extra_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXTRAS", {"iqa": ("no_such_module", "metrics")})
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0
    assert (
        'absent  no_such_module: not installed, for metrics; pip install "dehaze-diffusion[iqa]"\n'
        in result.output
    )


@pytest.mark.parametrize(
    ("torch_version", "works"), [("2.13.0+cpu", True), ("2.13.0", True), ("2.12.1", False)]
)
def test_torchvision_for_another_torch_is_explained(
    monkeypatch: pytest.MonkeyPatch, torch_version: str, works: bool
) -> None:
    versions = {"torch": torch_version, "torchvision": "0.28.0"}
    monkeypatch.setattr(metadata, "version", versions.__getitem__)
    monkeypatch.setattr(
        metadata, "requires", lambda name: ["numpy", "torch==2.13.0", "gdown; extra == 'gdown'"]
    )
    (check,) = module.torchvision_fits()
    assert check.works is works
    if not works:
        assert check.detail.startswith("0.28.0 is built for torch 2.13.0, and torch is 2.12.1")
        assert "pip uninstall torchvision" in check.cure


@pytest.mark.usefixtures("_loadable_model")
def test_quick_names_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = CliRunner().invoke(main, ["doctor", "--quick"])
    assert sound.exit_code == 0
    assert "bundled model: 2.5 MB, its files are whole" in sound.output
    monkeypatch.setitem(module.REQUIRED, "fog-tools", "fog_tools")
    result = CliRunner().invoke(main, ["doctor", "--quick"])
    assert result.exit_code == 1
    assert 'BROKEN  fog-tools: is not installed; pip install "fog-tools"' in result.output


def test_quick_finds_a_damaged_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "unet.safetensors").write_bytes(b"whole")
    write_manifest(tmp_path)
    (tmp_path / "unet.safetensors").write_bytes(b"torn")
    monkeypatch.setattr("dehaze.models.source.BUNDLED_FOLDER", tmp_path)
    result = CliRunner().invoke(main, ["doctor", "--quick"])
    assert result.exit_code == 1
    assert "is damaged (unet.safetensors)" in result.output


@pytest.mark.parametrize(
    "command", [["--help"], ["run", "--help"], ["models", "list"], ["doctor", "--quick"]]
)
def test_quick_checks_import_no_network_library(command: list[str]) -> None:
    code = (
        "import sys\nfrom dehaze.commands import main\n"
        f"main({command!r}, standalone_mode=False)\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'scipy', 'cv2', 'imagecodecs'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr.strip().splitlines()[-1] == "[]"
