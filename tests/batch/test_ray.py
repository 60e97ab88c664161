"""A job on a real Ray of this machine: the same results, also when a worker is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import FakeWork, FakeWorker, do, photo_at

from dehaze.batch import Job, plan
from dehaze.batch.item import RETRIES
from dehaze.batch.ray import ClusterError, RayExecutor, pool
from dehaze.batch.worker import ClassicalWork
from dehaze.models import ModelError
from dehaze.photos import FloatArray, Photo, write_photo


@pytest.fixture(scope="module")
def ray() -> Any:
    return pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")


@pytest.fixture(scope="module")
def cluster(ray: Any) -> Iterator[None]:
    """Two workers, in processes of their own, that find this file and the tools of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        here = Path(__file__).parent
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (here, here.parent))))
        on_termination = signal.getsignal(signal.SIGTERM)
        RayExecutor(ClassicalWork("dcp"), workers=2).connect(ray)
        # A job that is told to end must be able to end cleanly.
        assert signal.getsignal(signal.SIGTERM) is on_termination
        yield
        ray.shutdown()


@dataclass(frozen=True)
class MarkedWork(FakeWork):
    """Inverts photos, tells which process does it, and dies on photos of one shade.

    Attributes:
        marks: a folder, where each process leaves a file of its number's name.
        poison: the mean of a photo that ends each process that does it.
        at_once: photos in a batch.
        victim: a file; the first process to make it is killed in the middle of a photo.
    """

    marks: Path
    poison: float = -1.0
    at_once: int = 1
    victim: Path | None = None

    def start(self) -> FakeWorker:
        def process(photo: Photo) -> FloatArray:
            (self.marks / str(os.getpid())).touch()
            if abs(float(photo.pixels.mean()) - self.poison) < 0.003:
                os._exit(1)
            if self.victim is not None and not self.victim.exists():
                self.victim.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.2)
            return 1 - photo.pixels

        return FakeWorker(process, self.at_once)

    def photos_at_once(self, *, accelerated: bool) -> int:
        return self.at_once


def run(folder: Path, output: str, work: Any, progress: Any = lambda item: None) -> Any:
    with Job(folder / output, settings={}) as job:
        planned = plan([folder / "in"], folder / output)
        return job.run(planned, RayExecutor(work, workers=2), progress)


@pytest.mark.usefixtures("cluster")
def test_results_equal_a_local_run_after_a_killed_worker(tmp_path: Path) -> None:
    for index in range(8):
        photo_at(tmp_path / f"in/{index}.png", index / 10)
    (tmp_path / "in/torn.jpg").write_bytes(b"\xff\xd8 torn")
    marks, victim = tmp_path / "marks", tmp_path / "victim"
    marks.mkdir()
    summary = run(tmp_path, "ray", MarkedWork(marks, victim=victim))
    assert {mark.name for mark in marks.iterdir()} > {victim.read_text()}
    assert len(summary.having("done")) == 8
    (failed,) = summary.having("failed")
    assert failed.source.name == "torn.jpg"
    assert str(failed.error).startswith(f"{failed.source}: is not a photo that can be read")

    do(plan([tmp_path / "in"], tmp_path / "local"), settings={"a": 1})
    for index in range(8):
        name = f"{index}.png"
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    # The journal is the same: the next run, wherever it takes place, keeps what is done.
    with Job(tmp_path / "ray", settings={}) as job:
        again = job.run(
            plan([tmp_path / "in"], tmp_path / "ray"), RayExecutor(MarkedWork(marks)), print
        )
    assert (len(again.having("kept")), len(again.having("failed"))) == (8, 1)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("at_once", [1, 2])
def test_a_photo_that_kills_every_worker_fails_alone(tmp_path: Path, at_once: int) -> None:
    """Also where it shares its worker's turn with others."""
    for index in range(4):
        photo_at(tmp_path / f"in/{index}.png", index / 10)
    (tmp_path / "marks").mkdir()
    summary = run(tmp_path, "out", MarkedWork(tmp_path / "marks", 0.1, at_once))
    (failed,) = summary.having("failed")
    assert failed.source.name == "1.png"
    assert f"its worker died on it {RETRIES + 1} times" in str(failed.error)
    assert len(summary.having("done")) == 3


@pytest.mark.usefixtures("cluster")
def test_a_real_method_gives_the_same_bytes_as_here(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "b.png"):
        pixels = random.uniform(0.4, 0.9, (30, 40, 3)).astype(np.float32)
        write_photo(tmp_path / "in" / name, pixels)
    work = ClassicalWork("dcp")
    run(tmp_path, "ray", work)
    do(plan([tmp_path / "in"], tmp_path / "local"), worker=work.start())
    for name in ("a.jpg", "b.png"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()


@dataclass(frozen=True)
class ImpossibleWork(FakeWork):
    """Cannot start anywhere."""

    def start(self) -> FakeWorker:
        raise ModelError("no such model: get it")


@pytest.mark.usefixtures("cluster")
def test_work_that_cannot_start_on_ray_is_one_line(tmp_path: Path) -> None:
    photo_at(tmp_path / "in/a.png")
    with pytest.raises(ClusterError, match="no such model: get it") as got:
        run(tmp_path, "out", ImpossibleWork())
    assert "\n" not in str(got.value)
    assert not (tmp_path / "out/a.png").exists()


@pytest.mark.usefixtures("cluster")
def test_workers_with_other_code_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo_at(tmp_path / "in/a.png")
    monkeypatch.setattr("dehaze.batch.sent.digest_of_code", lambda: "newer")
    with pytest.raises(ClusterError, match="its code of dehaze is not the job's"):
        run(tmp_path, "out", FakeWork())
    assert not (tmp_path / "out/a.png").exists()


@pytest.mark.parametrize(
    ("resources", "tasks", "workers", "gpu", "expected"),
    [
        ({"CPU": 16, "GPU": 2}, 100, None, True, (2, {"num_gpus": 1})),
        ({"CPU": 16, "GPU": 2}, 100, 8, True, (2, {"num_gpus": 1})),
        ({"CPU": 16, "GPU": 4}, 100, 3, True, (3, {"num_gpus": 1})),
        ({"CPU": 16, "GPU": 2}, 1, None, True, (1, {"num_gpus": 1})),
        ({"CPU": 16, "GPU": 2}, 100, None, False, (16, {"num_cpus": 1})),
        ({"CPU": 16}, 100, None, True, (16, {"num_cpus": 1})),
        ({"CPU": 16}, 100, 4, True, (4, {"num_cpus": 1})),
        ({}, 100, None, True, (1, {"num_cpus": 1})),
    ],
)
def test_workers_default_to_the_clusters_gpus_or_cpus(
    resources: dict[str, float], tasks: int, workers: int | None, gpu: bool, expected: Any
) -> None:
    assert pool(resources, tasks, workers, gpu=gpu) == expected


def test_a_cluster_that_is_not_there_is_named(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(address: str, **options: Any) -> None:
        raise ConnectionError(f"no cluster at {address}\nmore")

    monkeypatch.setattr(ray, "init", unreachable)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(
        ClusterError, match=r"10\.0\.0\.1:6379 cannot be reached \(no cluster"
    ) as got:
        RayExecutor(ClassicalWork("dcp")).run([], print)
    assert "\n" not in str(got.value)
    with pytest.raises(ClusterError, match="other:1 cannot be reached"):
        RayExecutor(ClassicalWork("dcp"), address="other:1").run([], print)
