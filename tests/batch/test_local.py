"""The local executor: neighbours are read and written beside the network, within bounded memory."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from jobs import FakeWorker, invert

from dehaze.batch import Item
from dehaze.batch.local import LocalExecutor
from dehaze.photos import FloatArray, Photo, PhotoFile, read_photo, write_photo

PATIENCE = 20.0


def items_in(folder: Path, count: int, *, side: int = 4) -> list[Item]:
    (folder / "in").mkdir()
    (folder / "out").mkdir()
    made = []
    for index in range(count):
        source = folder / "in" / f"{index}.png"
        write_photo(source, np.full((side, side, 3), index / 10, np.float32))
        made.append(Item(source, folder / "out", Path(source.name)))
    return made


def test_every_task_is_reported_once_with_what_was_written(tmp_path: Path) -> None:
    reports: list[Item] = []
    made = items_in(tmp_path, 5)
    LocalExecutor(FakeWorker()).run(made, reports.append)
    assert reports == made
    assert all(report.error is None and report.seconds > 0 for report in reports)
    for index, report in enumerate(reports):
        assert list(report.files) == [report.name.name]
        assert read_photo(report.output).pixels.mean() == pytest.approx(1 - index / 10, abs=0.003)


def test_reading_and_writing_run_beside_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every wait below would end in a timeout if the three steps took turns."""
    third_is_read, first_is_written, second_runs = (threading.Event() for _ in range(3))
    made = items_in(tmp_path, 3)
    decode = PhotoFile.decode

    def watched(file: PhotoFile) -> Photo:
        if file.path.name == "2.png":
            third_is_read.set()
        return decode(file)

    monkeypatch.setattr(PhotoFile, "decode", watched)

    class Worker(FakeWorker):
        def save(self, item: Item) -> list[Path]:
            if item.name.name == "0.png":
                assert second_runs.wait(PATIENCE)
                first_is_written.set()
            return super().save(item)

    def process(photo: Photo) -> FloatArray:
        if photo.pixels.mean() == pytest.approx(0.1, abs=0.003):
            second_runs.set()
            assert third_is_read.wait(PATIENCE)
            assert first_is_written.wait(PATIENCE)
        return photo.pixels

    reports: list[Item] = []
    LocalExecutor(Worker(process)).run(made, reports.append)
    assert [report.error for report in reports] == [None] * 3


@pytest.mark.parametrize(("limit", "most"), [(0.0, 1), (35e-6, 2), (1.0, 6)])
def test_photos_wait_for_room_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: float, most: int
) -> None:
    """With no memory budget, a photo is decoded only after the one before it has been written."""
    made = items_in(tmp_path, 6)
    held, largest = 0, 0
    lock = threading.Lock()
    decode = PhotoFile.decode

    def counted(file: PhotoFile) -> Photo:
        nonlocal held, largest
        with lock:
            held += 1
            largest = max(largest, held)
        return decode(file)

    class Worker(FakeWorker):
        def save(self, item: Item) -> list[Path]:
            nonlocal held
            saved = super().save(item)
            with lock:
                held -= 1
            return saved

    monkeypatch.setattr(PhotoFile, "decode", counted)
    reports: list[Item] = []
    LocalExecutor(Worker(), megapixels=limit).run(made, reports.append)
    assert [report.error for report in reports] == [None] * 6
    assert 1 <= largest <= most


def test_a_failure_at_any_step_frees_its_memory_budget(tmp_path: Path) -> None:
    """If budget were lost, later photos would wait for ever."""
    made = items_in(tmp_path, 4)
    made[0].source.write_bytes(made[0].source.read_bytes()[:30])

    class Worker(FakeWorker):
        def save(self, item: Item) -> list[Path]:
            if item.name.name == "2.png":
                raise OSError(28, "No space left on device")
            return super().save(item)

    def process(photo: Photo) -> FloatArray:
        if photo.pixels.mean() == pytest.approx(0.1, abs=0.003):
            raise RuntimeError("no")
        return photo.pixels

    reports: dict[str, Item] = {}
    LocalExecutor(Worker(process), megapixels=0.0).run(
        made, lambda report: reports.update({report.source.name: report})
    )
    assert [reports[f"{index}.png"].error is None for index in range(4)] == [
        False,
        False,
        False,
        True,
    ]


def test_an_interrupt_lets_the_write_in_hand_end_and_reports_it(tmp_path: Path) -> None:
    made = items_in(tmp_path, 5)
    writing, may_write = threading.Event(), threading.Event()

    class Worker(FakeWorker):
        def save(self, item: Item) -> list[Path]:
            writing.set()
            assert may_write.wait(PATIENCE)
            return super().save(item)

    def process(photo: Photo) -> FloatArray:
        if photo.pixels.mean() > 0.05:
            assert writing.wait(PATIENCE)
            may_write.set()
            raise KeyboardInterrupt
        return invert(photo)

    reports: list[Item] = []
    with pytest.raises(KeyboardInterrupt):
        LocalExecutor(Worker(process)).run(made, reports.append)
    assert reports == made[:1]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["0.png"]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell starts its background jobs, these tests too, with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_stops_the_worker_and_lets_nothing_in(tmp_path: Path) -> None:
    """The worker runs until it is stopped, and the reader waits for budget that never comes."""
    made = items_in(tmp_path, 5)
    stopped = threading.Event()

    class Worker(FakeWorker):
        def stop(self) -> None:
            stopped.set()

    def process(photo: Photo) -> FloatArray:
        os.kill(os.getpid(), signal.SIGINT)
        assert stopped.wait(PATIENCE)
        return invert(photo)

    reports: list[Item] = []
    with pytest.raises(KeyboardInterrupt):
        LocalExecutor(Worker(process), megapixels=20e-6).run(made, reports.append)
    assert reports == []
    assert list((tmp_path / "out").iterdir()) == []
    assert sum(item.photo is not None for item in made) == 1


@dataclass
class BatchWorker(FakeWorker):
    """Remembers its batches by the shades of their photos, in tenths."""

    batch_size: int = 3
    batches: list[list[int]] = field(default_factory=list)

    def process(self, items: Sequence[Item]) -> None:
        self.batches.append([round(10 * float(item.decoded().pixels.mean())) for item in items])
        super().process(items)


def test_photos_of_one_size_share_a_batch(tmp_path: Path) -> None:
    made = items_in(tmp_path, 8)
    for index in (1, 4):
        write_photo(made[index].source, np.full((4, 6, 3), index / 10, np.float32))
    worker = BatchWorker()
    reports: list[Item] = []
    LocalExecutor(worker).run(made, reports.append)
    assert worker.batches == [[0, 2, 3], [5, 6, 7], [1, 4]]
    assert sorted(report.source for report in reports) == [item.source for item in made]
    assert [report.error for report in reports] == [None] * 8


def test_a_photo_of_a_rare_size_waits_for_two_batches_at_most(tmp_path: Path) -> None:
    made = items_in(tmp_path, 9)
    for index, item in enumerate(made):
        write_photo(item.source, np.full((4, 4 + index, 3), index / 10, np.float32))
    worker = BatchWorker()
    LocalExecutor(worker).run(made, lambda report: None)
    assert worker.batches == [[index] for index in range(9)]


@pytest.mark.parametrize(("limit", "largest"), [(0.0, 1), (35e-6, 2)])
def test_a_batch_is_as_large_as_the_room_allows(tmp_path: Path, limit: float, largest: int) -> None:
    """Waiting for a batch larger than the budget would never end."""
    made = items_in(tmp_path, 7)
    worker = BatchWorker()
    reports: list[Item] = []
    LocalExecutor(worker, megapixels=limit).run(made, reports.append)
    assert [report.error for report in reports] == [None] * 7
    assert [shade for batch in worker.batches for shade in batch] == list(range(7))
    # The photo after a full batch waits until that batch is written.
    assert [len(batch) for batch in worker.batches] == {1: [1] * 7, 2: [2, 2, 2, 1]}[largest]


def test_a_photo_whose_kind_cannot_be_told_fails_alone(tmp_path: Path) -> None:
    class Worker(BatchWorker):
        def kind(self, photo: Photo) -> tuple[int, int]:
            if photo.pixels.mean() == pytest.approx(0.1, abs=0.003):
                raise ValueError("no working size")
            return super().kind(photo)

    made = items_in(tmp_path, 4)
    worker = Worker()
    reports: dict[str, Item] = {}
    LocalExecutor(worker).run(made, lambda report: reports.update({report.source.name: report}))
    assert worker.batches == [[0, 2, 3]]
    assert sorted(reports) == [f"{index}.png" for index in range(4)]
    assert "ValueError: no working size" in str(reports["1.png"].error)
    assert [made[index].status for index in (0, 2, 3)] == ["done"] * 3


def test_a_photo_that_fails_in_a_batch_fails_alone(tmp_path: Path) -> None:
    class Worker(BatchWorker):
        def process(self, items: Sequence[Item]) -> None:
            super().process(items)
            if len(items) == 3:
                items[0].fail(ValueError("no"))

    made = items_in(tmp_path, 5)
    made[3].source.write_bytes(b"torn")
    reports: dict[str, Item] = {}
    LocalExecutor(Worker()).run(made, lambda report: reports.update({report.source.name: report}))
    assert [reports[f"{index}.png"].error is None for index in range(5)] == [
        False,
        True,
        True,
        False,
        True,
    ]
