"""What ``dehaze run`` does to each photo, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from dehaze.batch.local import LocalExecutor
from dehaze.batch.sent import SentWork
from dehaze.commands.task import DIFFUSION, executor_of, task_of
from dehaze.models import hashes, source
from dehaze.models.choice import ModelChoice
from dehaze.photos import ResultFile


def test_a_models_files_are_hashed_once_for_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[Path] = []

    def counted(*given: Path) -> str:
        places.extend(given)
        return hashes.fingerprint(*given)

    monkeypatch.setattr(source, "fingerprint", counted)
    task = task_of(DIFFUSION, ModelChoice(device="cpu"), {}, {}, None, ResultFile())
    executor = executor_of(task, "local", None, 2, [10**7] * 4)
    assert isinstance(executor, LocalExecutor)
    try:
        # One beside this one, which is told the hash.
        assert len(executor.started) == 1
        assert len(places) == 1
    finally:
        executor.close()
    assert task.files == task.work.fingerprint()
    assert SentWork.of(task.work, task.files) == SentWork.of(task.work)
