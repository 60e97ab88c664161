"""Work sent to another process starts only where code and model equal the job's."""

from __future__ import annotations

import pickle
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
from jobs import FakeWork

from dehaze.batch.sent import OtherWorkError, SentWork
from dehaze.batch.worker import ClassicalWork, DiffusionWork
from dehaze.models.choice import ModelChoice
from dehaze.report import CardingWork


def test_sent_work_starts_on_the_same_code() -> None:
    sent = pickle.loads(pickle.dumps(SentWork.of(ClassicalWork("dcp"))))
    assert sent.start().parallel


def test_sent_work_does_not_start_on_other_code() -> None:
    sent = replace(SentWork.of(FakeWork()), code="older")
    with pytest.raises(OtherWorkError, match="install the same version for every worker"):
        sent.start()


def test_sent_work_does_not_start_on_another_library(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = SentWork.of(FakeWork())
    real = metadata.version
    monkeypatch.setattr(
        "dehaze.batch.sent.version", lambda name: "1.0" if name == "numpy" else real(name)
    )
    with pytest.raises(OtherWorkError, match=r"its numpy is 1\.0 and the job's is "):
        sent.start()


@pytest.mark.parametrize("name", ["unet/diffusion_pytorch_model.safetensors", "dehaze.json"])
def test_sent_work_does_not_start_on_another_model(tmp_path: Path, name: str) -> None:
    """The model has the same name but other files, as on another machine."""
    (tmp_path / "unet").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / name).write_bytes(b"before")
    work = DiffusionWork(model=ModelChoice(str(tmp_path)))
    sent = SentWork.of(CardingWork(work, tmp_path / "out"))
    (tmp_path / name).write_bytes(b"after!")
    with pytest.raises(OtherWorkError, match="copy the same model to every worker"):
        sent.start()


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (DiffusionWork(), True),
        (DiffusionWork(model=ModelChoice(device="cpu")), True),
        (DiffusionWork(model=ModelChoice(device="cuda")), False),
        (DiffusionWork(model=ModelChoice("someone/model")), False),
        (DiffusionWork(batch_size=2), False),
        (ClassicalWork("dcp"), True),
    ],
)
def test_work_says_before_its_start_whether_processes_gain(
    work: DiffusionWork | ClassicalWork, expected: bool
) -> None:
    assert work.may_be_parallel is expected
