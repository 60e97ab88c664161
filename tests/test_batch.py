"""A folder job: the plan is sound, every photo is accounted for, a second run does what is left."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dehaze.batch import (
    JOURNAL_NAME,
    Outcome,
    Plan,
    PlanError,
    PlannedPhoto,
    Saved,
    Summary,
    plan,
    run,
)
from dehaze.images import FloatArray, Photo, PhotoError, read_photo, write_bytes, write_photo


def photo_at(path: Path, shade: float = 0.25) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_photo(path, np.full((3, 5, 3), shade, np.float32))
    return path


def invert(photo: Photo) -> FloatArray:
    return 1 - photo.pixels


def save(planned: PlannedPhoto, photo: Photo, result: FloatArray) -> Saved:
    write_photo(planned.output, result, like=photo)
    return Saved((planned.output,), nfe=40, residual=0.5)


def quiet(outcome: Outcome) -> None:
    pass


def do(job: Plan, process: Callable[[Photo], FloatArray] = invert, **options: Any) -> Summary:
    options.setdefault("settings", {"word": "haze"})
    return run(job, process, save, quiet, **options)


def statuses(summary: Summary) -> list[str]:
    return [outcome.status for outcome in summary.outcomes]


def outputs(job: Plan) -> list[str]:
    return [photo.output.relative_to(job.output).as_posix() for photo in job.photos]


def test_a_folder_is_searched_to_the_bottom_and_its_tree_kept(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "sub/deep/B.JPEG", "sub/x.heic", "notes.txt", "._a.jpg"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    job = plan([tmp_path / "in"], tmp_path / "out")
    assert outputs(job) == ["a.jpg", "a.png", "sub/deep/B.JPEG", "sub/x.heic"]
    assert [path.name for path in job.passed_over] == ["._a.jpg", "notes.txt"]
    assert not (tmp_path / "out").exists()


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    names=st.sets(
        st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map("/".join),
        min_size=1,
        max_size=8,
    )
)
def test_the_plan_is_one_to_one_and_keeps_every_path(
    tmp_path_factory: pytest.TempPathFactory, names: set[str]
) -> None:
    folder = tmp_path_factory.mktemp("job")
    expected = {f"{name}.png" for name in names}
    for name in expected:
        (folder / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "in" / name).touch()
    job = plan([folder / "in", folder / "in"], folder / "out")
    assert sorted(outputs(job)) == sorted(expected)
    assert {photo.source.relative_to(folder / "in").as_posix() for photo in job.photos} == expected


def test_same_names_from_two_folders_are_kept_apart(tmp_path: Path) -> None:
    for name in ("spring/x.jpg", "spring/y.jpg", "autumn/x.jpg", "winter/z.jpg"):
        photo_at(tmp_path / name)
    folders = [tmp_path / name for name in ("spring", "autumn", "winter")]
    job = plan(folders, tmp_path / "out")
    assert outputs(job) == ["spring/x.jpg", "spring/y.jpg", "autumn/x.jpg", "z.jpg"]
    files = plan([tmp_path / "spring/x.jpg", tmp_path / "autumn/x.jpg"], tmp_path / "out")
    assert outputs(files) == ["spring/x.jpg", "autumn/x.jpg"]


def test_names_that_cannot_be_kept_apart_are_an_error_naming_both(tmp_path: Path) -> None:
    first, second = photo_at(tmp_path / "1/same/x.jpg"), photo_at(tmp_path / "2/same/x.jpg")
    with pytest.raises(PlanError) as caught:
        plan([first.parent, second.parent], tmp_path / "out")
    assert str(first) in str(caught.value)
    assert str(second) in str(caught.value)


def test_files_beside_an_output_count_as_its_own(tmp_path: Path) -> None:
    photo_at(tmp_path / "in/a.jpg")
    photo_at(tmp_path / "in/a.jpg.attention.png")
    assert len(plan([tmp_path / "in"], tmp_path / "out").photos) == 2
    with pytest.raises(PlanError, match="same file"):
        plan([tmp_path / "in"], tmp_path / "out", beside=[".attention.png"])


def test_a_photo_named_twice_is_done_once(tmp_path: Path) -> None:
    photo = photo_at(tmp_path / "in/sub/a.jpg")
    job = plan([tmp_path / "in", photo, photo], tmp_path / "out")
    assert outputs(job) == ["sub/a.jpg"]


def test_a_file_named_by_hand_is_always_planned(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/notes.txt").write_text("no photo")
    job = plan([tmp_path / "in", tmp_path / "in/notes.txt"], tmp_path / "out")
    assert outputs(job) == ["notes.txt"]
    assert job.passed_over == ()
    (outcome,) = do(job).outcomes
    assert outcome.status == "failed"
    assert "not a photo" in str(outcome.error)


def test_links_to_folders_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    photo_at(tmp_path / "elsewhere/b.png")
    photo_at(tmp_path / "in/a.png")
    (tmp_path / "in/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/up").symlink_to(tmp_path / "in")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "in")
    job = plan([tmp_path / "in"], tmp_path / "out")
    assert outputs(job) == ["a.png", "link/b.png"]


def test_results_are_not_read_back(tmp_path: Path) -> None:
    photo_at(tmp_path / "in/a.png")
    do(plan([tmp_path / "in"], tmp_path / "in/dehazed"))
    assert outputs(plan([tmp_path / "in"], tmp_path / "in/dehazed")) == ["a.png"]
    other = plan([tmp_path / "in"], tmp_path / "in/other")
    assert outputs(other) == ["a.png"]
    assert other.results == (tmp_path / "in/dehazed",)
    # Unless they are asked for.
    assert outputs(plan([tmp_path / "in/dehazed"], tmp_path / "out")) == ["a.png"]


def test_an_output_that_is_an_input_is_refused(tmp_path: Path) -> None:
    photo = photo_at(tmp_path / "in/a.png")
    (tmp_path / "alias").symlink_to(tmp_path / "in")
    for inputs, output in (
        ([tmp_path / "in"], tmp_path / "in"),
        ([photo], tmp_path / "in"),
        ([photo], tmp_path / "alias"),
        ([tmp_path / "in"], tmp_path / "alias"),
        # b/a.png would land on in/a.png.
        ([photo, photo_at(tmp_path / "b/in/a.png")], tmp_path),
    ):
        with pytest.raises(PlanError, match="name another"):
            plan(inputs, output)


def test_wrong_places_are_refused(tmp_path: Path) -> None:
    photo = photo_at(tmp_path / "a.png")
    (tmp_path / "file").touch()
    with pytest.raises(PlanError, match="does not exist"):
        plan([tmp_path / "nowhere"], tmp_path / "out")
    for output in ("file", "b.jpg"):
        with pytest.raises(PlanError, match="must be a folder"):
            plan([photo], tmp_path / output)
    with pytest.raises(PlanError, match="cannot be made"):
        do(plan([photo], tmp_path / "file/out"))


def test_photos_are_processed_written_and_journalled(tmp_path: Path) -> None:
    photo_at(tmp_path / "in/sub/a.png", 0.2)
    seen: list[Outcome] = []
    job = plan([tmp_path / "in"], tmp_path / "out")
    summary = run(job, invert, save, seen.append, settings={"word": "haze"})

    assert statuses(summary) == ["done"]
    assert list(summary.outcomes) == seen
    assert summary.nfe_per_photo == 40
    assert summary.seconds_per_photo > 0
    assert read_photo(tmp_path / "out/sub/a.png").pixels[0, 0] == pytest.approx([0.8] * 3)
    record = json.loads((tmp_path / "out" / JOURNAL_NAME).read_text().splitlines()[-1])
    assert record["status"] == "done"
    assert record["output"] == "sub/a.png"
    assert record["input"] == "../in/sub/a.png"
    assert record["nfe"] == 40
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


@pytest.mark.parametrize("damage", ["input", "output", "torn output", "no output", "no record"])
def test_what_changed_is_done_again(tmp_path: Path, damage: str) -> None:
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
        # As a kill between writing the photo and saying so would leave it.
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(lines[0] + lines[2] + lines[3] + lines[1][:50])
    assert statuses(do(job)) == ["done", "kept"]
    expected = 0.25 if damage == "input" else 0.75
    assert read_photo(output).pixels.mean() == pytest.approx(expected, abs=0.003)
    assert statuses(do(job)) == ["kept", "kept"]


def test_a_missing_file_beside_the_output_is_made_again(tmp_path: Path) -> None:
    photo_at(tmp_path / "in/a.png")
    job = plan([tmp_path / "in"], tmp_path / "out", beside=[".trace.json"])

    def save_both(planned: PlannedPhoto, photo: Photo, result: FloatArray) -> Saved:
        trace = planned.output.with_name(planned.output.name + ".trace.json")
        write_bytes(trace, b"{}")
        write_photo(planned.output, result, like=photo)
        return Saved((planned.output, trace), 1, 0.0)

    def again() -> list[str]:
        return statuses(run(job, invert, save_both, quiet, settings={}))

    assert again() == ["done"]
    assert again() == ["kept"]
    (tmp_path / "out/a.png.trace.json").unlink()
    assert again() == ["done"]


def test_a_strangers_file_is_not_replaced_without_being_told(tmp_path: Path) -> None:
    photo_at(tmp_path / "in/a.png", 0.25)
    stranger = photo_at(tmp_path / "out/a.png", 0.5)
    job = plan([tmp_path / "in"], tmp_path / "out")
    before = stranger.read_bytes()
    (outcome,) = do(job).outcomes
    assert "was not made by dehaze" in str(outcome.error)
    assert stranger.read_bytes() == before
    assert statuses(do(job, overwrite=True)) == ["done"]
    assert read_photo(stranger).pixels.mean() == pytest.approx(0.75, abs=0.003)

    photo_at(tmp_path / "second/a.png", 0.9)
    (outcome,) = do(plan([tmp_path / "second"], tmp_path / "out")).outcomes
    assert "was made from another photo" in str(outcome.error)


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
        "a.png",
        "c.png",
    ]


class OutOfMemoryError(RuntimeError):
    """Named as the accelerator's own error."""


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
def test_any_failure_of_one_photo_is_its_own(tmp_path: Path, error: Exception, cause: str) -> None:
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
    # What failed is tried again, what was done is not.
    assert statuses(do(job)) == ["done", "kept"]


def test_a_vanished_input_is_a_failure(tmp_path: Path) -> None:
    source = photo_at(tmp_path / "in/a.png")
    job = plan([tmp_path / "in"], tmp_path / "out")
    source.unlink()
    (outcome,) = do(job).outcomes
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
    assert statuses(summary) == ["failed", "done"]
    assert "locked: cannot be listed (Permission denied)" in str(summary.outcomes[0].error)


def test_an_interrupt_keeps_what_is_done_and_the_next_run_continues(tmp_path: Path) -> None:
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
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [JOURNAL_NAME, "a.png"]
    assert statuses(do(job, process)) == ["kept", "done", "done"]


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
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*names, JOURNAL_NAME}
    assert set(statuses(do(job))) == {"kept"}
