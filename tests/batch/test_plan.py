"""A plan: one output a photo, no output that is an input, and an error where that is impossible."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jobs import do, outputs, photo_at

from dehaze.batch import PlanError, plan


def test_a_folder_is_searched_to_the_bottom_and_its_tree_kept(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "sub/deep/B.JPEG", "sub/x.heic", "notes.txt", "._a.jpg"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    job = plan([tmp_path / "in"], tmp_path / "out")
    assert outputs(job) == ["a.jpg", "a.png", "sub/deep/B.JPEG", "sub/x.heic"]
    assert [path.name for path in job.passed_over] == ["._a.jpg", "notes.txt"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "below",
    [
        "@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg",
        ".@__thumb/a.jpg",
        ".thumbnails/a.jpg",
        "DCIM/.thumbnails/a.jpg",
        "#recycle/a.jpg",
        "@Recycle/a.jpg",
        "$RECYCLE.BIN/S-1/a.jpg",
        "System Volume Information/a.jpg",
        ".Trash-1000/files/a.jpg",
        "__MACOSX/a.jpg",
        "Thumbs/a.jpg",
        "lost+found/a.jpg",
        "@Recently-Snapshot/GMT+00/a.jpg",
        "~snapshot/hourly.0/a.jpg",
        "found.000/a.jpg",
        "Network Trash Folder/a.jpg",
        ".trashed-1700000000-a.jpg",
        "._a.jpg",
    ],
)
def test_system_folders_of_devices_are_counted_and_skipped(tmp_path: Path, below: str) -> None:
    folder = tmp_path / "in"
    for name in ("a.jpg", below):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        photo_at(folder / name)
    job = plan([folder], tmp_path / "out")
    assert [photo.source for photo in job.photos] == [folder / "a.jpg"]
    assert job.passed_over == (folder / below,)
    assert job.counts().passed_over == 1


def test_a_device_folder_named_by_hand_is_searched(tmp_path: Path) -> None:
    folder = tmp_path / ".hidden" / "@eaDir"
    folder.mkdir(parents=True)
    photo_at(folder / "a.jpg")
    assert len(plan([folder], tmp_path / "out").photos) == 1
    assert len(plan([folder / "a.jpg"], tmp_path / "out").photos) == 1


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


def test_colliding_outputs_name_both_photos(tmp_path: Path) -> None:
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
    (outcome,) = do(job).items
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
