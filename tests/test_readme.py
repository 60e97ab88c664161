"""The README's example runs, and its links and marks exist."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import dehaze

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(block, names)
    assert np.asarray(vars(names["result"])["image"]).shape == (512, 768, 3)
    assert (tmp_path / "photo.safetensors").is_file()


def test_the_two_commands_are_where_ci_looks_for_them() -> None:
    for mark in ("main job", "tests"):
        (block,) = re.findall(rf"<!-- {mark} -->\n```sh\n(.*?)\n```\n<!-- /{mark} -->", TEXT)
        assert block.startswith("python3 -m venv .venv && ")
    assert "<!-- tests -->" in (ROOT / ".ci" / "run").read_text()


PAGES = sorted(
    path
    for room in ("", "docs/", "docs/notes/", "examples/", "benchmarks/", "dehaze/models/bundled/")
    for path in ROOT.glob(f"{room}*.md")
)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_and_pictures_are_there(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def test_every_file_says_the_same_version() -> None:
    version = dehaze.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version} (" in (ROOT / "CHANGELOG.md").read_text()


def test_every_page_is_in_the_sites_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    for path in (ROOT / "docs").rglob("*.md"):
        assert f"{path.relative_to(ROOT / 'docs').as_posix()}\n" in navigation, path
