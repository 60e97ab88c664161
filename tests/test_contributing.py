"""CONTRIBUTING.md tells of the tree, the walks and the dependencies as they are."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

import pytest
from test_architecture import imports_of, modules

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
# What tools leave in a checkout.
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


def test_every_dependency_earns_its_line() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    (listed,) = re.findall(r"^dependencies = \[\n(.*?)^\]", project, re.DOTALL | re.MULTILINE)
    needed = re.findall(r'^    "([\w-]+)', listed, re.MULTILINE)
    assert re.findall(r"^\| ([\w-]+) \| [^-]", TEXT, re.MULTILINE)[1:] == needed
