"""The packages: conda's list is pip's, and the README that PyPI shows leads somewhere."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import numpy as np
import pytest
from packaging.version import Version
from PIL import Image
from test_architecture import imports_of, modules

from dehaze.photos import write_photo

ROOT = Path(__file__).resolve().parents[1]

# Packages with another name or other versions on conda-forge.
CONDA_NAMES = {"torch": "pytorch", "opencv-python-headless": "py-opencv"}
CONDA_BOUNDS = {"py-opencv": ">=4.13.0"}


# FastAPI is made of the first two. The third has no extra: a message says how to install it.
UNDECLARED = {"starlette", "pydantic", "lpips"}


def declared(pattern: str, text: str) -> dict[str, str]:
    return dict(re.findall(pattern, text, re.MULTILINE))


def test_conda_has_every_dependency_at_the_same_bounds() -> None:
    (block,) = re.findall(
        r"^dependencies = \[\n(.*?)^\]",
        (ROOT / "pyproject.toml").read_text(),
        re.DOTALL | re.MULTILINE,
    )
    pip = declared(r'^    "([\w.-]+)([<>=][^"]*)"', block)
    conda = declared(r"^  - ([\w.-]+)([<>=]\S*)$", (ROOT / "environment.yml").read_text())
    assert len(pip) > 10
    for name, bounds in pip.items():
        own = CONDA_NAMES.get(name, name)
        assert conda.get(own) == CONDA_BOUNDS.get(own, bounds), own


def test_pypi_shows_a_readme_without_relative_targets() -> None:
    made = runpy.run_path(str(ROOT / "setup.py"))
    shown = made["with_addresses"]((ROOT / "README.md").read_text())
    targets = re.findall(r"\]\(([^)]+)\)", shown)
    assert len(targets) > 5
    assert all(target.startswith(("https://", "#")) for target in targets)
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", shown)
    assert pictures
    assert all(target.startswith(made["RAW"]) for target in pictures)


def test_every_repository_address_is_the_projects() -> None:
    made = runpy.run_path(str(ROOT / "setup.py"))
    text = (ROOT / "pyproject.toml").read_text()
    addresses = re.findall(r'= "(https://[^"]+)"', text)
    assert made["REPOSITORY"] in addresses
    assert len({address.split("/")[2] for address in addresses}) <= 2


def test_the_container_copies_what_is_built() -> None:
    kept = set(re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert {"dehaze", "datasets", "eval", "pyproject.toml", "setup.py", "README.md"} <= kept


def test_every_import_is_declared() -> None:
    """An undeclared package may be missing, or of any version, elsewhere."""
    names = re.findall(r'^    "([\w.-]+)[<>=]', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    names += re.findall(r'[\[ ]"([\w.-]+)(?:\[\w+\])?>=', (ROOT / "pyproject.toml").read_text())
    owners = _packages_of_distributions(names)
    for _, path in modules():
        for imported in imports_of(path):
            top = imported.partition(".")[0]
            if top in sys.stdlib_module_names or top == "dehaze" or top in UNDECLARED:
                continue
            assert top in names or top in owners, f"{path} imports {top}"


def _packages_of_distributions(names: list[str]) -> set[str]:
    """The top-level packages that these distributions install, as far as they are installed.

    ``importlib.metadata.packages_distributions`` does not know all of them on Python 3.10.
    """
    packages = set()
    for name in names:
        with suppress(PackageNotFoundError):
            packages |= {Path(file).parts[0].removesuffix(".py") for file in files(name) or ()}
    return packages


def test_the_lowest_versions_are_those_that_were_tried() -> None:
    """A changed bound needs another run of .ci/lowest and a new line in the notes."""
    notes = (ROOT / "docs/notes/libraries.md").read_text()
    (tried,) = re.findall(r"^Last run: .*?\. `", notes, re.DOTALL | re.MULTILINE)
    versions = dict(re.findall(r"([a-z][\w-]+)\s+(\d[\d.]*\d)", tried))
    project = (ROOT / "pyproject.toml").read_text()
    (block,) = re.findall(r"^dependencies = \[\n(.*?)^\]", project, re.DOTALL | re.MULTILINE)
    extras = "".join(
        re.findall(r"^(?:evaluate|interpolate|plots|ui|video) = (.*)$", project, re.MULTILINE)
    )
    lowest = declared(r'"([\w-]+)>=([\d.]+)', block + extras)
    assert len(lowest) > 18
    for name, version in lowest.items():
        assert Version(versions[name]) == Version(version), name


OPTIONAL = ("skimage", "scipy", "matplotlib", "fastapi", "uvicorn", "pyiqa", "ray", "av")


def without_extras(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command where none of the packages of the extras can be imported."""
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({OPTIONAL!r}))\n"
        "from dehaze.commands import main\n"
        f"main({list(arguments)!r})"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_main_job_needs_no_extra(tmp_path: Path) -> None:
    write_photo(tmp_path / "a.png", np.full((16, 24, 3), 0.5, np.float32))
    done = without_extras(
        "run", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--report", "--save", "trace"
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/a.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("evaluate", "folder"), "CIEDE2000 needs scikit-image: pip install 'dehaze-diffusion[ev"),
        (("interpolate", "a.png"), "need SciPy: pip install 'dehaze-diffusion[interpolate]'"),
    ],
)
def test_a_missing_extra_is_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_photo(tmp_path / "a.png", np.full((16, 24, 3), 0.5, np.float32))
    done = without_extras(*command, "." if "evaluate" in command else "a.png", "-o", "out")
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_workflow_knows_the_size_of_its_photo() -> None:
    workflow = (ROOT / ".github/workflows/tests.yml").read_text()
    (name,) = re.findall(r"--data-binary @(\S+)", workflow)
    (size,) = re.findall(r"file back\.jpg \| grep (\d+x\d+)", workflow)
    with Image.open(ROOT / name) as photo:
        assert size == f"{photo.width}x{photo.height}"


def test_every_service_can_have_a_gpu() -> None:
    services = [
        re.findall(r"^  (\w+):$", (ROOT / name).read_text().split("\nservices:\n")[1], re.MULTILINE)
        for name in ("compose.yaml", "compose.gpu.yaml")
    ]
    assert services[0][:2] == services[1] == ["ui", "serve"]
    (index,) = re.findall(r"TORCH_INDEX: (\S+)", (ROOT / "compose.gpu.yaml").read_text())
    assert f"--build-arg TORCH_INDEX={index} " in (ROOT / "Dockerfile").read_text()


def test_compose_waits_until_the_server_has_stopped() -> None:
    server = (ROOT / "dehaze/webui/server.py").read_text()
    (grace,) = re.findall(r"^GRACE_SECONDS = (\d+)$", server, re.MULTILINE)
    (wait,) = re.findall(
        r"^  stop_grace_period: (\d+)s$", (ROOT / "compose.yaml").read_text(), re.MULTILINE
    )
    assert int(wait) > int(grace)


def test_actions_are_pinned_to_a_commit_and_say_its_version() -> None:
    """A tag can be moved to other code by whoever holds its repository."""
    workflow = (ROOT / ".github/workflows/tests.yml").read_text()
    used = [line.strip() for line in workflow.splitlines() if "uses:" in line]
    assert used
    for line in used:
        assert re.fullmatch(r"- uses: [\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


def test_the_container_takes_the_torch_of_the_package() -> None:
    (wanted,) = re.findall(r'"torch>=[^"]*"', (ROOT / "pyproject.toml").read_text())
    assert wanted in (ROOT / "Dockerfile").read_text()
