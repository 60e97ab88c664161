"""How many photos and workers fit into the memory."""

from __future__ import annotations

import pytest

from dehaze.batch import memory


@pytest.mark.parametrize(
    ("allowed", "megapixels", "workers"), [(1e9, 0.0, 1), (8e9, 4e9, 5), (1e12, 256.0, 8)]
)
def test_megapixels_and_workers_fit_half_of_the_memory(
    monkeypatch: pytest.MonkeyPatch, allowed: float, megapixels: float, workers: int
) -> None:
    monkeypatch.setattr(memory, "memory", lambda: allowed)
    found = memory.megapixels_for(4)
    taken = found * memory.BYTES_A_MEGAPIXEL + 3 * memory.BYTES_A_WORKER
    assert found == megapixels or taken == pytest.approx(megapixels)
    assert memory.workers_that_fit(8) == workers


def test_unknown_memory_is_that_of_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory", lambda: None)
    assert memory.megapixels_for(8) == memory.megapixels_for(1) == 64
    assert memory.workers_that_fit(8) == 8
