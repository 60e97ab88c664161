"""Every error class of the library has one base."""

from __future__ import annotations

import ast
import pickle
from pathlib import Path

import pytest

from dehaze.errors import DehazeError, first_line, one_line, reason
from dehaze.photos import FileError, PhotoError
from dehaze.video.clip import VideoError

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    path for room in ("dehaze", "datasets", "eval") for path in (ROOT / room).rglob("*.py")
)
BUILT_IN = {"Exception", "BaseException", "ValueError", "RuntimeError", "TypeError", "OSError",
            "FileNotFoundError", "ArithmeticError", "KeyError", "LookupError"}  # fmt: skip


def error_classes() -> list[tuple[str, list[str]]]:
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                bases = [ast.unparse(base) for base in node.bases]
                if BUILT_IN.intersection(bases):
                    found.append((f"{path.relative_to(ROOT)}:{node.name}", bases))
    return found


@pytest.mark.parametrize(("name", "bases"), error_classes(), ids=str)
def test_an_error_class_derives_from_the_base(name: str, bases: list[str]) -> None:
    if name != "dehaze/errors.py:DehazeError":
        assert "DehazeError" in bases


def test_there_are_error_classes_to_look_at() -> None:
    assert len(error_classes()) > 10
    assert issubclass(DehazeError, Exception)


def test_the_first_line_of_an_error_is_never_empty() -> None:
    assert first_line(OSError("\nno such\n  file")) == "no such"
    assert first_line(MemoryError()) == "MemoryError"


def test_one_line_of_an_error_is_never_empty() -> None:
    assert one_line(OSError("no such\n  file")) == "no such file"
    assert one_line(MemoryError()) == "MemoryError"


def test_the_reason_of_an_error_is_never_none() -> None:
    assert reason(FileNotFoundError(2, "No such file", "a.jpg")) == "No such file"
    assert reason(OSError("torn\n in two")) == "torn in two"


@pytest.mark.parametrize("kind", [PhotoError, VideoError])
def test_a_file_error_passes_between_processes(kind: type[FileError]) -> None:
    sent = pickle.loads(pickle.dumps(kind("a.mp4", "is cut short", "copy it again")))
    assert type(sent) is kind
    assert (str(sent), sent.cure) == ("a.mp4: is cut short; copy it again", "copy it again")
