"""Every photo is accounted for, fails alone, and is done by a second run if it is left."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from jobs import FakeWorker, do, photo_at, statuses

from dehaze.batch import JOURNAL_NAME, LOCK_NAME, Item, Job, plan
from dehaze.batch.local import LocalExecutor
from dehaze.photos import FloatArray, Photo, PhotoError, read_photo, write_bytes


def test_photos_are_processed_written_and_journalled(tmp_path: Path) -> None:
    photo_at(tmp_path / "in/sub/a.png", 0.2)
    seen: list[Item] = []
    job = plan([tmp_path / "in"], tmp_path / "out")
    summary = do(job, progress=seen.append)

    assert statuses(summary) == ["done"]
    assert list(summary.items) == seen
    assert summary.evaluations_per_photo == 40
    assert summary.seconds_per_photo > 0
    assert read_photo(tmp_path / "out/sub/a.png").pixels[0, 0] == pytest.approx([0.8] * 3)
    record = json.loads((tmp_path / "out" / JOURNAL_NAME).read_text().splitlines()[-1])
    assert record["status"] == "done"
    assert record["output"] == "sub/a.png"
    assert record["input"] == "../in/sub/a.png"
    assert record["network_evaluations"] == 40
    assert record["residual"] == 0.5


def test_a_second_run_keeps_what_is_done(tmp_path: Path) -> None:
    photo_at(tmp_path / "in/a.png")
    photo_at(tmp_path / "in/b.png")
    job = plan([tmp_path / "in"], tmp_path / "out")
    do(job)
    before = (tmp_path / "out/a.png").stat().st_mtime_ns

    def never(photo: Photo) -> FloatArray:
        raise AssertionError("done already")

    assert statuses(do(job, never)) == ["kept", "kept"]
    assert (tmp_path / "out/a.png").stat().st_mtime_ns == before
    assert statuses(do(job, overwrite=True)) == ["done", "done"]
    assert statuses(do(job, settings={"word": "fog"})) == ["done", "done"]


def test_touched_and_moved_inputs_of_the_same_content_are_kept(tmp_path: Path) -> None:
    source = photo_at(tmp_path / "in/a.png")
    do(plan([tmp_path / "in"], tmp_path / "out"))
    os.utime(source, (1, 1))
    assert statuses(do(plan([tmp_path / "in"], tmp_path / "out"))) == ["kept"]
    (tmp_path / "in").rename(tmp_path / "moved")
    assert statuses(do(plan([tmp_path / "moved"], tmp_path / "out"))) == ["kept"]


def test_another_photo_of_the_same_length_is_done_again(tmp_path: Path) -> None:
    source = photo_at(tmp_path / "in/a.bmp", 0.25)
    length = source.stat().st_size
    do(plan([tmp_path / "in"], tmp_path / "out"))
    photo_at(source, 0.75)
    os.utime(source, (1, 1))
    assert source.stat().st_size == length
    assert statuses(do(plan([tmp_path / "in"], tmp_path / "out"))) == ["done"]
    assert read_photo(tmp_path / "out/a.bmp").pixels.mean() == pytest.approx(0.25, abs=0.003)


@pytest.mark.parametrize("damage", ["input", "output", "torn output", "no output", "no record"])
def test_a_changed_output_is_made_again(tmp_path: Path, damage: str) -> None:
    source = photo_at(tmp_path / "in/a.png", 0.25)
    photo_at(tmp_path / "in/b.png")
    job = plan([tmp_path / "in"], tmp_path / "out")
    do(job)
    output, journal = tmp_path / "out/a.png", tmp_path / "out" / JOURNAL_NAME
    if damage == "input":
        photo_at(source, 0.75)
    elif damage == "output":
        photo_at(output, 0.1)
    elif damage == "torn output":
        output.write_bytes(output.read_bytes()[:-9])
    elif damage == "no output":
        output.unlink()
    else:
        # A kill after the photo is written and before its journal line leaves this.
        lines = journal.read_bytes().splitlines(keepends=True)
        (lost,) = (line for line in lines if b'"status": "done"' in line and b'/a.png"' in line)
        journal.write_bytes(b"".join(line for line in lines if line != lost) + lost[:50])
    assert statuses(do(job)) == ["done", "kept"]
    expected = 0.25 if damage == "input" else 0.75
    assert read_photo(output).pixels.mean() == pytest.approx(expected, abs=0.003)
    assert statuses(do(job)) == ["kept", "kept"]


class SavesBoth(FakeWorker):
    def save(self, item: Item) -> list[Path]:
        for trace in item.beside_output:
            write_bytes(trace, b"{}")
        return [*super().save(item), *item.beside_output]


def test_a_missing_file_beside_the_output_is_made_again(tmp_path: Path) -> None:
    photo_at(tmp_path / "in/a.png")
    job = plan([tmp_path / "in"], tmp_path / "out", beside=[".trace.json"])

    def again() -> list[str]:
        return statuses(do(job, worker=SavesBoth()))

    assert again() == ["done"]
    assert again() == ["kept"]
    (tmp_path / "out/a.png.trace.json").unlink()
    assert again() == ["done"]


def test_a_strangers_file_is_not_replaced_without_being_told(tmp_path: Path) -> None:
    photo_at(tmp_path / "in/a.png", 0.25)
    stranger = photo_at(tmp_path / "out/a.png", 0.5)
    job = plan([tmp_path / "in"], tmp_path / "out")
    before = stranger.read_bytes()
    (outcome,) = do(job).items
    assert "was not made by dehaze" in str(outcome.error)
    assert stranger.read_bytes() == before
    assert statuses(do(job, overwrite=True)) == ["done"]
    assert read_photo(stranger).pixels.mean() == pytest.approx(0.75, abs=0.003)

    photo_at(tmp_path / "second/a.png", 0.9)
    (outcome,) = do(plan([tmp_path / "second"], tmp_path / "out")).items
    assert "was made from another photo" in str(outcome.error)


def test_a_strangers_file_beside_the_output_is_not_replaced(tmp_path: Path) -> None:
    photo_at(tmp_path / "in/a.png")
    stranger = tmp_path / "out/a.png.trace.json"
    stranger.parent.mkdir()
    stranger.write_text("mine")
    job = plan([tmp_path / "in"], tmp_path / "out", beside=[".trace.json"])
    (outcome,) = do(job, worker=SavesBoth()).items
    assert f"{stranger} exists and was not made by dehaze" in str(outcome.error)
    assert stranger.read_text() == "mine"
    assert not (tmp_path / "out/a.png").exists()
    assert statuses(do(job, worker=SavesBoth(), overwrite=True)) == ["done"]
    assert stranger.read_text() == "{}"


def test_what_a_failed_attempt_left_beside_is_replaced(tmp_path: Path) -> None:
    photo_at(tmp_path / "in/a.png")
    job = plan([tmp_path / "in"], tmp_path / "out", beside=[".trace.json"])

    class Fails(SavesBoth):
        def save(self, item: Item) -> list[Path]:
            write_bytes(item.beside_output[0], b"{}")
            raise OSError("no space left")

    assert statuses(do(job, worker=Fails())) == ["failed"]
    assert statuses(do(job, worker=SavesBoth())) == ["done"]


def test_a_file_beside_of_an_earlier_result_is_named(tmp_path: Path) -> None:
    photo_at(tmp_path / "in/a.png", 0.25)
    both = plan([tmp_path / "in"], tmp_path / "out", beside=[".trace.json"])
    alone = plan([tmp_path / "in"], tmp_path / "out")
    do(both, worker=SavesBoth())
    for shade in (0.5, 0.75):
        photo_at(tmp_path / "in/a.png", shade)
        (outcome,) = do(alone).items
        assert outcome.status == "done"
        assert [note.partition(" is ")[0] for note in outcome.notes] == [
            str(tmp_path / "out/a.png.trace.json")
        ]
    # It was made by dehaze all the same.
    (outcome,) = do(both, worker=SavesBoth(), settings={"word": "fog"}).items
    assert (outcome.status, outcome.notes) == ("done", ())


def test_a_corrupt_photo_is_named_and_the_rest_is_done(tmp_path: Path) -> None:
    photo_at(tmp_path / "in/a.png")
    (tmp_path / "in/b.jpg").write_bytes(b"\xff\xd8 torn")
    photo_at(tmp_path / "in/c.png")
    summary = do(plan([tmp_path / "in"], tmp_path / "out"))
    assert statuses(summary) == ["done", "failed", "done"]
    (failed,) = summary.having("failed")
    assert failed.source == tmp_path / "in/b.jpg"
    assert str(failed.error).startswith(f"{tmp_path / 'in/b.jpg'}: ")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        JOURNAL_NAME,
        LOCK_NAME,
        "a.png",
        "c.png",
    ]


class OutOfMemoryError(RuntimeError):
    """An error with the name of PyTorch's own."""


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (RuntimeError("shapes differ\nsecond line"), r"RuntimeError: shapes differ\)"),
        (OutOfMemoryError("CUDA"), "does not fit in memory"),
        (MemoryError(), "does not fit in memory"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (PhotoError("a.png", "holds nothing", "look again"), "holds nothing; look again"),
    ],
)
def test_any_error_fails_its_photo_alone(tmp_path: Path, error: Exception, cause: str) -> None:
    photo_at(tmp_path / "in/a.png", 0.25)
    photo_at(tmp_path / "in/b.png", 0.5)

    def process(photo: Photo) -> FloatArray:
        if photo.pixels.mean() < 0.3:
            raise error
        return photo.pixels

    job = plan([tmp_path / "in"], tmp_path / "out")
    summary = do(job, process)
    assert statuses(summary) == ["failed", "done"]
    with pytest.raises(PhotoError, match=cause):
        raise summary.having("failed")[0].error  # type: ignore[misc]
    assert "\n" not in str(summary.having("failed")[0].error)
    # Failed photos are tried again, done ones are not.
    assert statuses(do(job)) == ["done", "kept"]


def test_a_vanished_input_is_a_failure(tmp_path: Path) -> None:
    source = photo_at(tmp_path / "in/a.png")
    job = plan([tmp_path / "in"], tmp_path / "out")
    source.unlink()
    (outcome,) = do(job).items
    assert "No such file" in str(outcome.error)


def test_an_unreadable_folder_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo_at(tmp_path / "in/a.png")
    (tmp_path / "in/locked").mkdir()
    listing = Path.iterdir

    def iterdir(self: Path) -> Any:
        if self.name == "locked":
            raise PermissionError(13, "Permission denied")
        return listing(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    summary = do(plan([tmp_path / "in"], tmp_path / "out"))
    assert statuses(summary) == ["done", "failed"]
    (failed,) = summary.having("failed")
    assert "locked: cannot be listed (Permission denied)" in str(failed.error)


def test_interrupted_job_continues_where_it_stopped(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        photo_at(tmp_path / "in" / name)
    job = plan([tmp_path / "in"], tmp_path / "out")
    calls = 0

    def process(photo: Photo) -> FloatArray:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return photo.pixels

    summary = do(job, process)
    assert summary.interrupted
    assert statuses(summary) == ["done"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        JOURNAL_NAME,
        LOCK_NAME,
        "a.png",
    ]
    assert statuses(do(job, process)) == ["kept", "done", "done"]


class LosesReports:
    """An executor that is interrupted after it has written a photo and before it reports it."""

    def run(self, items: Iterable[Item], report: Callable[[Item], None]) -> None:
        first, *_ = items
        LocalExecutor(FakeWorker()).run([first], lambda done: None)
        raise KeyboardInterrupt

    def close(self) -> None:
        """Nothing is left."""


class LeavesTorn:
    """An executor that is interrupted after a worker was killed while writing a file."""

    def run(self, items: Iterable[Item], report: Callable[[Item], None]) -> None:
        item = next(iter(items))
        (item.folder / ".dehaze-0123456789abcdef.part").write_bytes(b"torn")
        raise KeyboardInterrupt

    def close(self) -> None:
        """Nothing is left."""


def test_interrupted_job_leaves_no_torn_file(tmp_path: Path) -> None:
    photo_at(tmp_path / "in/a.png")
    job = plan([tmp_path / "in"], tmp_path / "out")
    with Job(job.output, settings={}) as held:
        assert held.run(job, LeavesTorn(), lambda item: None).interrupted
    assert list((tmp_path / "out").glob("*.part")) == []


def test_interrupted_job_claims_only_its_own_files(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        photo_at(tmp_path / "in" / name, 0.25)
    job = plan([tmp_path / "in"], tmp_path / "out")
    with Job(job.output, settings={}) as held:
        assert held.run(job, LosesReports(), lambda outcome: None).interrupted
    stranger = photo_at(tmp_path / "out/b.png", 0.5)
    summary = do(job)
    assert statuses(summary) == ["done", "failed"]
    assert "was not made by dehaze" in str(summary.having("failed")[0].error)
    assert read_photo(stranger).pixels.mean() == pytest.approx(0.5, abs=0.003)


def test_inputs_are_never_changed(tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg", "c.tif"):
        photo_at(tmp_path / "in" / name)
    before = {path: path.read_bytes() for path in (tmp_path / "in").iterdir()}
    summary = do(plan([tmp_path / "in"], tmp_path / "in/dehazed"))
    assert statuses(summary) == ["done"] * 3
    assert {path: path.read_bytes() for path in before} == before


def test_awkward_names(tmp_path: Path) -> None:
    names = ["-o.png", "new\nline.png", "fog 🌫.png", os.fsdecode(b"latin-\xe9.png"), "n" * 251]
    names[-1] += ".png"
    for name in names:
        photo_at(tmp_path / "in" / name)
    job = plan([tmp_path / "in"], tmp_path / "out")
    assert set(statuses(do(job))) == {"done"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*names, JOURNAL_NAME, LOCK_NAME}
    assert set(statuses(do(job))) == {"kept"}
