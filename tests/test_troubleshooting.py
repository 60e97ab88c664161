"""docs/troubleshooting.md lists exactly the errors of the folder job."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
# Where the errors of a folder job are raised.
SOURCES = [
    *sorted((ROOT / "dehaze/photos").glob("*.py")),
    *sorted((ROOT / "dehaze/batch").glob("*.py")),
    *sorted((ROOT / "dehaze/report").glob("*.py")),
    *sorted((ROOT / "dehaze/video").glob("*.py")),
    *(
        ROOT / "dehaze/commands" / f"{name}.py"
        for name in (
            "clips",
            "command",
            "doctor",
            "logfile",
            "models",
            "photos",
            "reporting",
            "run",
            "settings",
            "streaming",
            "task",
        )
    ),
    ROOT / "dehaze/models/choice.py",
    ROOT / "dehaze/models/hashes.py",
]
# Calls that raise, and the position of the argument with the cause.
ERRORS = {
    "PhotoError": 1,
    "UnreadableError": 0,
    "PlanError": 0,
    "JournalError": 0,
    "ClusterError": 0,
    "VideoError": 1,
    "VideoLibraryError": 0,
    "DeviceError": 0,
    "CommandError": 0,
    "UnexpectedError": 0,
    "UsageError": 0,
    "BadParameter": 0,
    "ManifestError": 0,
}


def text_of(node: ast.expr) -> str | None:
    """A string literal, with … for each value that is filled in at run time."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
        return "".join(map(str, parts))
    return None


def messages_in(source: str) -> Iterator[str]:
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        assigned: dict[str, list[str]] = {}
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                values = (
                    [node.value.body, node.value.orelse]
                    if isinstance(node.value, ast.IfExp)
                    else [node.value]
                )
                texts = [text for value in values if (text := text_of(value)) is not None]
                assigned.setdefault(node.targets[0].id, []).extend(texts)
        for node in ast.walk(function):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", None))
            if name not in ERRORS or len(node.args) <= ERRORS[name]:
                continue
            argument = node.args[ERRORS[name]]
            text = text_of(argument)
            if text is not None:
                yield text
            elif isinstance(argument, ast.Name):
                yield from assigned.get(argument.id, [])


def raised() -> set[str]:
    found = {text for source in SOURCES for text in messages_in(source.read_text())}
    # The text before the cure, which has a column of its own in the table.
    return {text.split("; ")[0] for text in found}


def documented() -> list[str]:
    return re.findall(r"^\| `(.+?)` \|", PAGE.read_text(), re.MULTILINE)


def test_every_error_is_in_the_table_and_every_row_is_an_error() -> None:
    rows = documented()
    assert len(set(rows)) == len(rows)
    assert set(rows) == raised()


def test_every_row_has_a_cause_and_a_cure() -> None:
    for line in PAGE.read_text().splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            assert len(cells) == 3, line
            assert all(cells), line


def test_the_search_finds_messages_however_they_are_written() -> None:
    source = """
def f(path, error):
    cause = f"is {error} and broken"
    if error:
        raise PhotoError(path, cause, "mend it")
    reason = "late" if path else f"early by {path}"
    raise PlanError(reason)
    raise click.UsageError(
        "two "
        f"lines of {path}; cure"
    )
"""
    assert set(messages_in(source)) == {
        "is … and broken",
        "late",
        "early by …",
        "two lines of …; cure",
    }
