"""A job that is disturbed: no torn file, no lost input, and the outputs of an undisturbed one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import do, photo_at, statuses

from benchmarks.soundness import check_output, results
from dehaze.batch import PlanError, Summary, plan
from dehaze.photos import PhotoError, PhotoFile, open_photo, write_photo

COUNT = 6
NOBODY = 65534


def make_photos(folder: Path, *, side: int = 8) -> None:
    random = np.random.default_rng(1)
    for index in range(COUNT):
        (folder / f"sub{index % 2}").mkdir(parents=True, exist_ok=True)
        pixels = random.random((side, side + index, 3), np.float32)
        write_photo(folder / f"sub{index % 2}" / f"{index}.png", pixels)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in results(folder)}


def undisturbed(inputs: Path) -> dict[str, bytes]:
    output = inputs.parent / "undisturbed"
    do(plan([inputs], output))
    return contents(output)


def assert_sound(inputs: Path, output: Path, before: dict[str, bytes]) -> None:
    """No input is lost, no output is incomplete, and the journal tells the truth."""
    assert contents(inputs) == before
    check_output(output)


def resume(inputs: Path, output: Path) -> Summary:
    """The last run, after which the outputs are those of an undisturbed job."""
    summary = do(plan([inputs], output))
    assert not summary.having("failed")
    assert contents(output) == undisturbed(inputs)
    assert list(output.rglob("*.part")) == []
    return summary


@contextmanager
def as_nobody(*folders: Path) -> Iterator[None]:
    """Inside, root has no rights beyond the permissions of files."""
    if os.geteuid() != 0:
        yield
        return
    for folder in folders:
        for parent in (folder, *folder.parents):
            if parent.stat().st_mode & 0o005 != 0o005:
                parent.chmod(0o755)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def damaged(content: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content(path.read_bytes())) and None


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (damaged(lambda data: data[:40] + bytes(20) + data[60:]), "cannot be decoded|is not a ph"),
        (damaged(lambda data: data[: len(data) // 2]), "is cut short|cannot be decoded"),
        (damaged(lambda data: b""), "is empty"),
        (damaged(lambda data: b"no photo at all"), "is not a photo that can be read"),
        (Path.unlink, "No such file|does not exist"),
    ],
    ids=["corrupt", "truncated", "zero-byte", "not a photo", "vanished"],
)
def test_a_bad_input_fails_alone_and_is_done_once_it_is_good(
    tmp_path: Path, fault: Callable[[Path], object], cause: str
) -> None:
    inputs, output = tmp_path / "in", tmp_path / "out"
    make_photos(inputs)
    good = contents(inputs)
    job = plan([inputs], output)
    fault(inputs / "sub0/2.png")
    bad = contents(inputs)
    summary = do(job)
    (failed,) = summary.having("failed")
    assert failed.source == inputs / "sub0/2.png"
    with pytest.raises(PhotoError, match=cause):
        raise failed.error or AssertionError
    assert len(summary.having("done")) == COUNT - 1
    assert_sound(inputs, output, bad)
    assert not (output / "sub0/2.png").exists()
    (inputs / "sub0/2.png").write_bytes(good["sub0/2.png"])
    assert len(resume(inputs, output).having("kept")) == COUNT - 1


def test_a_wrong_extension_is_no_failure(tmp_path: Path) -> None:
    inputs, output = tmp_path / "in", tmp_path / "out"
    make_photos(inputs)
    (inputs / "sub0/2.png").rename(inputs / "sub0/2.jpg")
    before = contents(inputs)
    summary = do(plan([inputs], output))
    (noted,) = (outcome for outcome in summary.items if outcome.notes)
    assert noted.notes == ("holds PNG in spite of its name, and comes back as PNG",)
    assert_sound(inputs, output, before)
    resume(inputs, output)


def test_an_unreadable_input_fails_alone(tmp_path: Path) -> None:
    inputs, output = tmp_path / "in", tmp_path / "out"
    make_photos(inputs)
    output.mkdir()
    output.chmod(0o777)
    before = contents(inputs)
    (inputs / "sub1/3.png").chmod(0o000)
    with as_nobody(inputs, output):
        summary = do(plan([inputs], output))
    (inputs / "sub1/3.png").chmod(0o644)
    (failed,) = summary.having("failed")
    assert "sub1/3.png: cannot be read (Permission denied); check its permissions" in str(
        failed.error
    )
    assert_sound(inputs, output, before)
    resume(inputs, output)


def test_a_photo_that_changes_while_it_is_read_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo_at(tmp_path / "in/a.png")
    changing = photo_at(tmp_path / "in/b.png")

    def read_and_write_again(path: Path, **options: Any) -> PhotoFile:
        file = open_photo(path, **options)
        if path == changing:
            photo_at(changing, 0.75)
        return file

    with monkeypatch.context() as patched:
        patched.setattr("dehaze.batch.item.open_photo", read_and_write_again)
        summary = do(plan([tmp_path / "in"], tmp_path / "out"))
    assert statuses(summary) == ["done", "failed"]
    assert "b.png: changed while it was read; run it again" in str(
        summary.having("failed")[0].error
    )
    assert statuses(do(plan([tmp_path / "in"], tmp_path / "out"))) == ["kept", "done"]


def test_a_read_only_output_is_refused_at_once(tmp_path: Path) -> None:
    inputs, output = tmp_path / "in", tmp_path / "out"
    make_photos(inputs)
    before = contents(inputs)
    output.mkdir()
    output.chmod(0o555)
    with as_nobody(inputs, output), pytest.raises(PlanError, match="Permission denied"):
        do(plan([inputs], output))
    assert_sound(inputs, output, before)
    output.chmod(0o755)
    resume(inputs, output)


def test_a_subfolder_that_turns_read_only_fails_its_photos_alone(tmp_path: Path) -> None:
    inputs, output = tmp_path / "in", tmp_path / "out"
    make_photos(inputs)
    before = contents(inputs)
    for folder in (output, output / "sub0", output / "sub1"):
        folder.mkdir()
        folder.chmod(0o777)
    (output / "sub1").chmod(0o555)
    with as_nobody(inputs, output):
        summary = do(plan([inputs], output))
    assert statuses(summary) == ["done"] * 3 + ["failed"] * 3
    assert "cannot be written (Permission denied)" in str(summary.having("failed")[0].error)
    assert_sound(inputs, output, before)
    (output / "sub1").chmod(0o777)
    assert len(resume(inputs, output).having("kept")) == 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small tmpfs")
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine does not let root mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_fails_what_does_not_fit_and_loses_nothing(
    tmp_path: Path, small_disk: Path
) -> None:
    inputs, output = tmp_path / "in", small_disk / "out"
    make_photos(inputs, side=64)
    before = contents(inputs)
    filler = small_disk / "filler"
    # Room for the journal and about two photos of 12 kB.
    filler.write_bytes(bytes(28 * 1024))
    summary = do(plan([inputs], output))
    assert 1 <= len(summary.having("done")) < COUNT
    assert summary.error is not None or summary.having("failed")
    for outcome in summary.having("failed"):
        assert "No space left on device" in str(outcome.error) or "does not fit on the disk" in str(
            outcome.error
        )
    assert_sound(inputs, output, before)
    filler.unlink()
    (tmp_path / "more").mkdir()
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    assert len(resume(inputs, output).having("kept")) == len(summary.having("done"))


def test_links_do_not_lead_a_result_out_of_the_output_folder(tmp_path: Path) -> None:
    inputs, output, elsewhere = (tmp_path / name for name in ("in", "out", "elsewhere"))
    make_photos(inputs)
    before = contents(inputs)
    elsewhere.mkdir()
    (elsewhere / "5.png").write_text("precious")
    output.mkdir()
    (output / "sub1").symlink_to(elsewhere)
    half = elsewhere / ".dehaze-0123456789abcdef.part"
    half.write_bytes(b"another job writes it")
    (output / "sub0").mkdir()
    (output / "sub0/0.png").symlink_to(elsewhere / "new.png")
    summary = do(plan([inputs], output), overwrite=True)
    assert len(summary.having("failed")) == 3
    assert all("leave the output folder" in str(one.error) for one in summary.having("failed"))
    assert contents(elsewhere) == {"5.png": b"precious"}
    assert half.exists()
    # A link in the place of a photo is replaced, not followed.
    assert not (output / "sub0/0.png").is_symlink()
    (output / "sub1").unlink()
    assert_sound(inputs, output, before)
    resume(inputs, output)


JOB = """
import sys, time
from pathlib import Path
from jobs import FakeWorker, do
from dehaze.batch import PlanError, plan

def slowly(photo):
    time.sleep(0.003)
    return 1 - photo.pixels

print("ready", flush=True)
try:
    summary = do(plan([Path(sys.argv[1])], Path(sys.argv[2])), slowly)
except PlanError as error:
    sys.exit(str(error))
assert not summary.having("failed"), summary.having("failed")
"""


def start(inputs: Path, output: Path) -> subprocess.Popen[str]:
    """A job in a process of its own, about to begin."""
    process = subprocess.Popen(
        [sys.executable, "-c", JOB, str(inputs), str(output)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()
    return process


@pytest.mark.slow
def test_killed_job_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    """benchmarks/kill_job.py does this to the command itself, and more often."""
    inputs, output = tmp_path / "in", tmp_path / "out"
    make_photos(inputs)
    before = contents(inputs)
    random = np.random.default_rng(int(time.time()))
    for _ in range(6):
        process = start(inputs, output)
        time.sleep(float(random.uniform(0, 0.05)))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if output.exists():
            assert_sound(inputs, output, before)
    resume(inputs, output)


def test_two_jobs_at_once_on_one_folder(tmp_path: Path) -> None:
    """One job does the work; the other is refused, or finds it done."""
    inputs, output = tmp_path / "in", tmp_path / "out"
    make_photos(inputs)
    before = contents(inputs)
    both = [start(inputs, output) for _ in range(2)]
    ends = [(process.communicate()[1], process.returncode) for process in both]
    assert 0 in [code for _, code in ends]
    for said, code in ends:
        assert code == 0 or "another dehaze run is writing to it" in said
    assert_sound(inputs, output, before)
    assert len(resume(inputs, output).having("kept")) == COUNT


def test_temporary_files_of_a_killed_write_are_removed(tmp_path: Path) -> None:
    photo_at(tmp_path / "in/a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.dehaze-0123456789abcdef.part").write_bytes(b"torn")
    (tmp_path / "out/mine.part").write_bytes(b"mine")
    do(plan([tmp_path / "in"], tmp_path / "out"))
    assert sorted(contents(tmp_path / "out")) == ["a.png", "mine.part"]
    assert list((tmp_path / "out").glob(".dehaze-*")) == []
