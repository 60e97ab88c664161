"""Watching folders: a photo is due once it is whole, and again only when it changes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from jobs import do, outputs, photo_at

from dehaze.batch import Item, plan, watch

Step = Callable[[], object]


@pytest.fixture
def between_looks(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """Functions called before each look, instead of a wait; the watch ends after the last."""
    steps: list[Step] = []

    def sleep(seconds: float) -> None:
        assert seconds == 3
        if not steps:
            raise KeyboardInterrupt
        steps.pop(0)()

    monkeypatch.setattr(time, "sleep", sleep)
    return steps


def collect(folder: Path, seen: Sequence[Item]) -> list[list[str]]:
    """The outputs of each plan that a watch gives until it is interrupted."""
    found: list[list[str]] = []
    try:
        for due in watch([folder], folder.parent / "out", 3, seen=seen):
            found.append(outputs(due))
    except KeyboardInterrupt:
        return found
    raise AssertionError("a watch does not end by itself")


def test_watched_photo_is_due_once_unchanged(tmp_path: Path, between_looks: list[Step]) -> None:
    folder = tmp_path / "in"
    old = photo_at(folder / "old.png")
    seen = do(plan([folder], tmp_path / "out")).items

    def grow() -> None:
        with open(folder / "new.png", "ab") as file:
            file.write(b"more")

    def nothing() -> None:
        pass

    between_looks += [lambda: photo_at(folder / "new.png"), grow, nothing, nothing, nothing]
    assert collect(folder, seen) == [["new.png"]]
    seen = do(plan([folder], tmp_path / "out")).items
    between_looks += [nothing, lambda: os.utime(old, (1, 1)), nothing, nothing]
    assert collect(folder, seen) == [["old.png"]]


def test_a_photo_that_changes_before_the_first_look_is_due(
    tmp_path: Path, between_looks: list[Step]
) -> None:
    """It changes after it was read, while the first photos are being done."""
    folder = tmp_path / "in"
    changing = photo_at(folder / "a.png")
    photo_at(folder / "b.png")

    def write_again(item: Item) -> None:
        photo_at(changing, 0.75)

    seen = do(plan([folder], tmp_path / "out"), progress=write_again).items
    between_looks += [lambda: None] * 3
    assert collect(folder, seen) == [["a.png"]]


def test_watch_survives_lost_photos_and_new_folders(
    tmp_path: Path, between_looks: list[Step], caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "in"
    photo_at(folder / "a.png")
    seen = do(plan([folder], tmp_path / "out")).items
    between_looks += [
        (folder / "a.png").unlink,
        folder.rmdir,
        lambda: None,
        lambda: photo_at(folder / "sub/b.png"),
        lambda: None,
    ]
    assert collect(folder, seen) == [["sub/b.png"]]
    # The folder was missing at two looks and was named once.
    assert caplog.text.count("does not exist") == 1


def test_a_folder_that_cannot_be_listed_is_named_once(
    tmp_path: Path,
    between_looks: list[Step],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "in"
    photo_at(folder / "a.png")
    closed = {folder / "before"}
    for name in ("before", "later"):
        (folder / name).mkdir()
    listed = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path in closed:
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    seen = do(plan([folder], tmp_path / "out")).items
    between_looks += [lambda: None, lambda: closed.add(folder / "later"), lambda: None]
    assert collect(folder, seen) == []
    # The job itself has named the first one.
    assert caplog.messages == [
        f"{folder / 'later'}: cannot be listed (Permission denied); check the folder's permissions"
    ]
