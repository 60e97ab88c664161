"""The journal: its records of each output, and its lock for one job at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dehaze.batch.journal import JOURNAL_NAME, LOCK_NAME, Journal, JournalError
from dehaze.digests import digest_of_file


def record(status: str, source: str = "../in/a.png", **more: Any) -> dict[str, Any]:
    return {
        "output": "a.png",
        "input": source,
        "settings": "s",
        "size": 1,
        "mtime_ns": 1,
        "sha256": "0" * 64,
        "files": {},
        "status": status,
        **more,
    }


def replayed(folder: Path, *records: dict[str, Any]) -> Journal:
    """A journal that has been closed and opened again."""
    with Journal(folder) as journal:
        for each in records:
            journal.add(each)
    with Journal(folder) as journal:
        return journal


@pytest.mark.parametrize(
    ("statuses", "done", "known"),
    [
        ([], False, 0),
        (["started"], False, 1),
        (["started", "done"], True, 1),
        (["started", "failed"], False, 0),
        (["started", "dropped"], False, 0),
        (["refused"], False, 0),
        (["started", "done", "started"], True, 2),
        (["started", "done", "started", "failed"], True, 1),
        # Killed once, so an output may lie there, and then failed.
        (["started", "started", "failed"], False, 1),
        (["started", "refused"], False, 1),
    ],
)
def test_a_failed_attempt_keeps_the_earlier_record(
    tmp_path: Path, statuses: list[str], done: bool, known: int
) -> None:
    journal = replayed(tmp_path, *(record(status) for status in statuses))
    assert (journal.done("a.png") is not None) == done
    assert len(journal.known("a.png")) == known
    assert journal.done("b.png") is None
    assert journal.known("b.png") == []


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_a_line_cut_short_counts_as_not_written(tmp_path: Path, cut: int) -> None:
    replayed(tmp_path, record("started"), record("done"))
    path = tmp_path / JOURNAL_NAME
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:cut] if cut > 0 else first + second[:-2])
    with Journal(tmp_path) as journal:
        assert journal.done("a.png") is None
        assert len(journal.known("a.png")) == 1
        journal.add(record("done"))
        assert journal.done("a.png") is not None
    # The line after the torn one is a line of its own.
    assert json.loads(path.read_bytes().splitlines()[-1])["status"] == "done"
    with Journal(tmp_path) as journal:
        assert journal.done("a.png") is not None


def test_foreign_lines_of_a_journal_are_ignored(tmp_path: Path) -> None:
    lines = [b"\xff\xfe", b"[]", b'{"output": "a.png"}', b"", json.dumps(record("done")).encode()]
    (tmp_path / JOURNAL_NAME).write_bytes(b"\n".join(lines))
    with Journal(tmp_path) as journal:
        assert journal.done("a.png") is not None


def test_a_result_is_whole_as_long_as_every_file_is(tmp_path: Path) -> None:
    for name in ("a.png", "a.png.trace.json"):
        (tmp_path / name).write_text(name)
    files = {name: digest_of_file(tmp_path / name) for name in ("a.png", "a.png.trace.json")}
    with Journal(tmp_path) as journal:
        done = record("done", files=files)
        assert journal.is_whole(done)
        (tmp_path / "a.png.trace.json").write_text("torn")
        assert not journal.is_whole(done)
        (tmp_path / "a.png.trace.json").unlink()
        assert not journal.is_whole(done)


def test_one_job_at_a_time_holds_a_folder(tmp_path: Path) -> None:
    with Journal(tmp_path), pytest.raises(JournalError, match="another dehaze run is writing"):
        Journal(tmp_path).__enter__()
    # It is free once the first has ended, though the file is there.
    with Journal(tmp_path):
        assert (tmp_path / LOCK_NAME).exists()


@pytest.mark.parametrize("name", [JOURNAL_NAME, LOCK_NAME])
def test_links_in_the_place_of_its_files_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").write_text("kept")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(JournalError, match="lead out of the output folder"):
        Journal(tmp_path / "out").__enter__()
    assert (tmp_path / "elsewhere").read_text() == "kept"


def test_unreadable_journal_is_named_and_the_lock_released(
    tmp_path: Path,
) -> None:
    (tmp_path / JOURNAL_NAME).mkdir()
    with pytest.raises(JournalError, match="cannot be read or written"):
        Journal(tmp_path).__enter__()
    (tmp_path / JOURNAL_NAME).rmdir()
    with Journal(tmp_path):
        pass
