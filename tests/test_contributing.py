"""CONTRIBUTING.md lists the tree, the walks and the dependencies correctly."""

from __future__ import annotations

import inspect
import re
import sys
import threading
from itertools import groupby
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from test_architecture import SCRIPTS, imports_of, modules
from test_architecture import room_of as imported_room

from dehaze.commands import main

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
# Files that tools create in a checkout.
LEFT_BY_TOOLS = re.compile(r"__pycache__|.*\.egg-info|build|dist|site|out|runs|\.(?!ci$).*")
WALKS = {
    command: re.findall(r"^\d+\. `([^`]+)`", walk, re.MULTILINE)
    for command, walk in re.findall(r"^`(dehaze [^`]+)`\n\n((?:\d+\. .*\n)+)", TEXT, re.MULTILINE)
}
MODULE_OF = {path: name for name, path in modules()}


def told(indent: str, below: str) -> set[str]:
    """The names that the tree of the page lists at this depth, in the part that starts there."""
    (tree,) = re.findall(r"```\n(README.md .*?)```", TEXT, re.DOTALL)
    part = tree[tree.index(below) :] if below else tree
    lines = part.splitlines()[1:] if below else part.splitlines()
    names = []
    for line in lines:
        if below and not line.startswith(" "):
            break
        if re.match(rf"{indent}\S", line):
            names.append(line.split()[0].rstrip("/"))
    return set(names)


def there(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not LEFT_BY_TOOLS.fullmatch(path.name)}


def test_the_tree_is_the_tree() -> None:
    assert told("", "") == there(ROOT)
    assert told("  ", "dehaze/ ") == there(ROOT / "dehaze")


def room_of(path: str) -> str:
    parts = path.split("/")
    return parts[1] if parts[0] == "dehaze" else parts[0]


@pytest.mark.parametrize("command", WALKS)
def test_no_walk_returns_to_a_room_it_left(command: str) -> None:
    rooms = [room for room, _ in groupby(map(room_of, WALKS[command]))]
    assert len(rooms) == len(set(rooms)) > 3


@pytest.mark.parametrize("command", WALKS)
def test_no_file_of_a_walk_imports_a_room_above_it(command: str) -> None:
    rooms = [room for room, _ in groupby(map(room_of, WALKS[command]))]
    for path in WALKS[command]:
        above = {room.removesuffix(".py") for room in rooms[: rooms.index(room_of(path))]}
        imported = {imported_room(name) for name in imports_of(ROOT / path)}
        assert not above & imported - SCRIPTS.get(MODULE_OF[ROOT / path], set()), path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("run", ["photo.png"]),
        ("edit", ["photo.png", "--source", "a street in haze", "--target", "a street"]),
        ("evaluate", ["reside", "--root", "."]),
    ],
)
def test_a_command_enters_each_file_of_its_walk(
    command: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    for path in (
        "photo.png",
        *("SOTS/indoor/hazy/1400_1.png", "SOTS/indoor/gt/1400.png"),
        *("SOTS/outdoor/hazy/0001_0.8_0.2.png", "SOTS/outdoor/gt/0001.png"),
    ):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        photo.save(path)
    entered: set[str] = set()

    def enter(frame: FrameType, event: str, argument: object) -> None:
        # Calls of functions alone: the code of modules and classes runs where they are imported.
        if frame.f_code.co_flags & inspect.CO_OPTIMIZED:
            entered.add(frame.f_code.co_filename)

    threading.setprofile(enter)
    sys.setprofile(enter)
    try:
        done = CliRunner().invoke(main, [command, *arguments, "-q"])
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    assert done.exit_code == 0, done.output
    (walk,) = (walk for walked, walk in WALKS.items() if walked.split()[1] == command)
    # A file with classes alone has no function to enter.
    enterable = [path for path in walk if "def " in (ROOT / path).read_text()]
    assert len(enterable) >= len(walk) - 1
    assert [path for path in enterable if str(ROOT / path) not in entered] == []


@pytest.mark.parametrize("command", WALKS)
def test_each_file_of_a_walk_is_imported_by_another(command: str) -> None:
    files = [ROOT / path for path in WALKS[command]]
    for before, path in enumerate(files[1:], start=1):
        # A room's __init__ hands its names on.
        names = {MODULE_OF[path], MODULE_OF[path].rpartition(".")[0]} - {"dehaze"}
        imported = {name for other in files[:before] for name in imports_of(other)}
        assert any(
            name == wanted or name.startswith(f"{wanted}.") for name in imported for wanted in names
        ), path


def test_three_commands_are_walked() -> None:
    assert [command.split()[1] for command in WALKS] == ["run", "edit", "evaluate"]


def test_every_dependency_is_listed_with_its_use() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    (listed,) = re.findall(r"^dependencies = \[\n(.*?)^\]", project, re.DOTALL | re.MULTILINE)
    needed = re.findall(r'^    "([\w-]+)', listed, re.MULTILINE)
    assert re.findall(r"^\| ([\w-]+) \| [^-]", TEXT, re.MULTILINE)[1:] == needed
