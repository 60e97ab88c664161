"""Photos done by other processes: the same results, whatever happens to a process."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import pytest
from jobs import FakeWork, FakeWorker, do, photo_at, statuses

from dehaze.batch import Item, Job, local, plan, process
from dehaze.batch.local import LocalExecutor, processes_for
from dehaze.photos import FloatArray, Photo

PATIENCE = 30.0


def wait_for(due: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not due():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.005)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A child that has ended and was not waited for is a zombie.
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


@dataclass(frozen=True)
class MarkedWork(FakeWork):
    """Inverts photos, and leaves a file with its process's number for each thing that it does.

    In the process that it is made in, the first photo waits until the others have left ``count``
    files of one kind.

    Attributes:
        marks: a folder for the files.
        kind: of the files that are waited for: "process", "save" or "start".
        count: how many are waited for.
        does: what another process does with a photo: "die" at each, "die once" while writing a
            file, "log", "write long", or "not start".
        home: the process that it is made in.
    """

    marks: Path
    kind: str = "process"
    count: int = 1
    does: str = ""
    home: int = os.getpid()

    def start(self) -> FakeWorker:
        if self.is_away() and self.does == "not start":
            raise RuntimeError("no room for the model\nat all")
        self.mark("start")
        return MarkedWorker(self.process, parallel=True, work=self)

    def process(self, photo: Photo) -> FloatArray:
        if self.is_away():
            self.mark("process")
            self.act()
        else:
            wait_for(lambda: len(self.marked(self.kind)) >= self.count)
            (self.marks / f"threads-{cv2.getNumThreads()}").touch()
        return 1 - photo.pixels

    def act(self) -> None:
        died = self.does == "die once" and len(self.marked("process")) > 1
        if self.does in ("die", "die once") and not died:
            (self.marks.parent / "out/.dehaze-0123456789abcdef.part").write_bytes(b"torn")
            os.kill(os.getpid(), signal.SIGKILL)
        if self.does == "log":
            logging.getLogger("dehaze.test").info("a word from %d", os.getpid())
        (self.marks / f"threads-{cv2.getNumThreads()}").touch()

    def is_away(self) -> bool:
        return os.getpid() != self.home

    def mark(self, kind: str) -> None:
        if self.is_away():
            (self.marks / f"{kind}-{time.monotonic_ns()}-{os.getpid()}").touch()

    def marked(self, kind: str) -> list[Path]:
        return list(self.marks.glob(f"{kind}-*"))

    def pids(self) -> set[int]:
        return {int(path.name.rpartition("-")[2]) for path in self.marked("start")}


@dataclass
class MarkedWorker(FakeWorker):
    work: Any = None

    def save(self, item: Item) -> list[Path]:
        self.work.mark("save")
        if self.work.is_away() and self.work.does == "write long":
            time.sleep(0.3)
        if self.work.is_away():
            item.notes += ("written elsewhere",)
        return super().save(item)


@pytest.fixture
def marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for marks; and processes pay for one photo each."""
    monkeypatch.setattr(local, "PHOTOS_A_PROCESS", 1)
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


def items_in(folder: Path, count: int) -> list[Item]:
    (folder / "out").mkdir(exist_ok=True)
    names = [f"{index}.png" for index in range(count)]
    for index, name in enumerate(names):
        photo_at(folder / "in" / name, index / 10)
    return [Item(folder / "in" / name, folder / "out", Path(name)) for name in names]


def run(work: MarkedWork, items: list[Item], **options: Any) -> list[Item]:
    reports: list[Item] = []
    LocalExecutor(work.start(), work, workers=2, **options).run(iter(items), reports.append)
    return reports


def test_another_process_does_photos_with_the_same_bytes(
    tmp_path: Path, marks: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And what it logs and notes comes here."""
    caplog.set_level(logging.INFO, "dehaze")
    made = items_in(tmp_path, 6)
    made[4].source.write_bytes(b"torn")
    work = MarkedWork(marks, count=3, does="log")
    reports = run(work, made)
    assert sorted(item.source for item in reports) == [item.source for item in made]
    assert [item.error is None for item in made] == [True] * 4 + [False, True]
    assert str(made[4].error).startswith(f"{made[4].source}: is not a photo that can be read")
    away = [item for item in made if item.notes == ("written elsewhere",)]
    assert len(away) == 3
    assert all(item.seconds > 0 and item.megapixels > 0 and item.evaluations for item in away)
    do(plan([tmp_path / "in"], tmp_path / "here"))
    for item in made[:4]:
        assert item.output.read_bytes() == (tmp_path / "here" / item.name).read_bytes()
    (pid,) = work.pids()
    said = [(one.getMessage(), one.process) for one in caplog.records if one.name == "dehaze.test"]
    assert said == [(f"a word from {pid}", pid)] * 3
    assert not any(map(is_alive, work.pids()))


def test_workers_keep_opencv_to_one_core_each(tmp_path: Path, marks: Path) -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        work = MarkedWork(marks)
        run(work, items_in(tmp_path, 3))
        assert [path.name for path in work.marked("threads")] == ["threads-1"]
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)


def test_few_photos_start_no_process(
    tmp_path: Path, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "PHOTOS_A_PROCESS", 4)
    monkeypatch.setattr(local, "RemoteWorker", None)
    assert len(run(MarkedWork(marks, count=0), items_in(tmp_path, 3))) == 3


@pytest.mark.parametrize(
    ("sizes", "most", "expected"),
    [
        ([], 3, 0),
        ([100_000] * 3, 3, 0),
        ([100_000] * 4, 3, 1),
        ([100_000] * 40, 3, 3),
        ([9_000_000], 3, 0),
        ([9_000_000] * 2, 3, 1),
        ([1_000_000] * 3, 3, 1),
        ([9_000_000] * 2, 0, 0),
    ],
)
def test_a_process_is_started_for_work_that_pays(
    sizes: list[int], most: int, expected: int
) -> None:
    assert processes_for(sizes, most) == expected


@dataclass(frozen=True)
class WaitingWork(MarkedWork):
    """Starts here only after it has started in another process.

    Attributes:
        parallel: whether the worker here is; None where it cannot start.
    """

    parallel: bool | None = True

    def start(self) -> FakeWorker:
        if not self.is_away():
            wait_for(lambda: bool(self.marked("start")))
            if self.parallel is None:
                raise RuntimeError("no model")
        worker = super().start()
        worker.parallel = bool(self.parallel)
        return worker


def test_processes_load_at_the_same_time_as_this_one(tmp_path: Path, marks: Path) -> None:
    work = WaitingWork(marks)
    executor = LocalExecutor.load(work, 2, [1] * 6)
    made = items_in(tmp_path, 6)
    executor.run(iter(made), lambda item: None)
    assert [item.error for item in made] == [None] * 6
    assert ("written elsewhere",) in [item.notes for item in made]
    assert len(work.pids()) == 1
    assert not any(map(is_alive, work.pids()))


@pytest.mark.parametrize("parallel", [True, False, None])
def test_a_process_that_has_nothing_to_do_is_ended(marks: Path, parallel: bool | None) -> None:
    work = WaitingWork(marks, parallel=parallel)
    if parallel is None:
        with pytest.raises(RuntimeError, match="no model"):
            LocalExecutor.load(work, 2, [1] * 6)
    else:
        executor = LocalExecutor.load(work, 2, [1] * 6)
        assert len(executor.started) == int(parallel)
        executor.run(iter([]), lambda item: None)
    assert len(work.pids()) == 1
    assert not any(map(is_alive, work.pids()))


def test_a_process_with_other_code_does_no_photo(
    tmp_path: Path, marks: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dehaze.batch.sent.digest_of_code", lambda: "newer")
    work = MarkedWork(marks)
    worker = work.start()
    worker.one = lambda photo: wait_for(lambda: bool(caplog.messages)) or 1 - photo.pixels
    made = items_in(tmp_path, 3)
    LocalExecutor(worker, work, workers=2).run(iter(made), lambda item: None)
    assert [item.notes for item in made] == [()] * 3
    assert "cannot start (its code of dehaze is not the job's: install the" in caplog.messages[0]
    assert work.marked("start") == []


@dataclass(frozen=True)
class HomelyWork(MarkedWork):
    """Starts only where modules come from the same folders.

    Attributes:
        path: those folders.
    """

    path: tuple[str, ...] = ()

    def start(self) -> FakeWorker:
        assert tuple(sys.path) == self.path
        return super().start()


def test_a_process_has_this_dehaze_where_another_is_installed(
    tmp_path: Path, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``python cli.py`` takes its own folder from the path."""
    (tmp_path / "site-packages/dehaze").mkdir(parents=True)
    (tmp_path / "site-packages/dehaze/__init__.py").write_text("raise ImportError")
    monkeypatch.syspath_prepend(str(tmp_path / "site-packages"))
    made = items_in(tmp_path, 3)
    run(HomelyWork(marks, path=tuple(sys.path)), made)
    assert ("written elsewhere",) in [item.notes for item in made]


def test_a_photo_whose_process_is_killed_is_done_again(
    tmp_path: Path, marks: Path, caplog: pytest.LogCaptureFixture
) -> None:
    items_in(tmp_path, 3)
    work = MarkedWork(marks, count=2, does="die once")
    with Job(tmp_path / "out", settings={}) as job:
        executor = LocalExecutor(work.start(), work, workers=2)
        summary = job.run(plan([tmp_path / "in"], tmp_path / "out"), executor, lambda item: None)
    assert statuses(summary) == ["done"] * 3
    assert list((tmp_path / "out").glob("*.part")) == []
    (said,) = caplog.messages
    assert said.endswith("2.png: its worker process was killed by SIGKILL; it is done again")
    assert len(work.pids()) == 2
    assert not any(map(is_alive, work.pids()))


def test_a_photo_that_kills_every_process_fails_alone(
    tmp_path: Path, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "RETRIES", 1)
    made = items_in(tmp_path, 3)
    run(MarkedWork(marks, count=2, does="die"), made)
    assert [item.status for item in made] == ["done", "done", "failed"]
    assert "2.png: its worker died on it 2 times; look for want of memory" in str(made[2].error)


def test_a_job_goes_on_alone_where_no_process_starts(
    tmp_path: Path, marks: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = items_in(tmp_path, 3)

    work = MarkedWork(marks, does="not start")
    worker = work.start()
    worker.one = lambda photo: wait_for(lambda: bool(caplog.messages)) or 1 - photo.pixels
    LocalExecutor(worker, work, workers=2).run(iter(made), lambda item: None)
    assert [item.status for item in made] == ["done"] * 3
    (said,) = caplog.messages
    assert (
        said == "a worker process cannot start (no room for the model); the job goes on with fewer"
    )


def test_a_job_goes_on_alone_where_the_system_starts_no_process(
    tmp_path: Path, marks: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*arguments: Any, **options: Any) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(process.subprocess, "Popen", refused)
    made = items_in(tmp_path, 3)
    run(MarkedWork(marks, count=0), made)
    assert [item.status for item in made] == ["done"] * 3
    assert "a worker process cannot be started (Cannot allocate memory)" in caplog.messages[0]


def test_an_interrupt_lets_another_process_end_its_write(tmp_path: Path, marks: Path) -> None:
    made = items_in(tmp_path, 6)
    work = MarkedWork(marks, does="write long")
    worker = work.start()

    def interrupted(photo: Photo) -> FloatArray:
        wait_for(lambda: bool(work.marked("save")))
        raise KeyboardInterrupt

    worker.one = interrupted
    reports: list[Item] = []
    with pytest.raises(KeyboardInterrupt):
        LocalExecutor(worker, work, workers=2).run(iter(made), reports.append)
    (item,) = reports
    assert (item.status, item.notes) == ("done", ("written elsewhere",))
    assert [path.name for path in (tmp_path / "out").iterdir()] == [item.name.name]
    assert not any(map(is_alive, work.pids()))


def test_processes_share_the_room_of_the_job(
    tmp_path: Path, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a budget for one photo, no process opens one while another has one."""
    made = items_in(tmp_path, 6)
    inside: list[Item] = []
    admit, leave = local._Room.admit, local._Room.leave

    def admitted(room: local._Room, item: Item) -> None:
        admit(room, item)
        inside.append(item)
        assert len(inside) == 1

    def left(room: local._Room, item: Item) -> None:
        if item in inside:
            inside.remove(item)
        leave(room, item)

    monkeypatch.setattr(local._Room, "admit", admitted)
    monkeypatch.setattr(local._Room, "leave", left)
    work = MarkedWork(marks, kind="start")
    run(work, made, megapixels=0.0)
    assert [item.error for item in made] == [None] * 6
    assert work.marked("process")


JOB = """
import sys
from pathlib import Path
from test_process import MarkedWork, items_in, local, run

local.PHOTOS_A_PROCESS = 1
run(MarkedWork(Path("marks"), count=99), items_in(Path(), 3))
"""


@pytest.mark.slow
def test_processes_end_when_theirs_is_killed(tmp_path: Path, marks: Path) -> None:
    here = Path(__file__).parent
    path = os.pathsep.join(map(str, (here, here.parent)))
    job = subprocess.Popen(
        [sys.executable, "-c", JOB], cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}
    )
    work = MarkedWork(marks)
    wait_for(lambda: bool(work.marked("process")))
    (pid,) = work.pids()
    assert is_alive(pid)
    job.kill()
    job.wait()
    wait_for(lambda: not is_alive(pid))
