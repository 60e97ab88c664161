"""The queue to the model: order, bounds, errors, the end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.webui.engine import BusyError, ClosedError, Engine, Urgency

PIPELINE = cast(DehazePipeline, "the model")


class Gate:
    """Work that waits until it is let through."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.opened = threading.Event()

    def __call__(self, pipeline: DehazePipeline) -> None:
        self.begun.set()
        assert self.opened.wait(20)


def noted(order: list[Any], name: Any) -> Callable[[DehazePipeline], None]:
    return lambda pipeline: order.append(name)


def test_results_and_errors_reach_their_caller() -> None:
    engine = Engine(PIPELINE)
    assert engine.submit(lambda pipeline: (pipeline, 3)).result(20) == ("the model", 3)

    def fail(pipeline: DehazePipeline) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        engine.submit(fail).result(20)
    assert engine.submit(lambda pipeline: 4).result(20) == 4
    engine.close()


def test_urgent_work_comes_first_then_the_earliest() -> None:
    engine, gate, order = Engine(PIPELINE), Gate(), list[Any]()
    engine.submit(gate)
    assert gate.begun.wait(20)
    futures = [engine.submit(noted(order, number)) for number in range(3)]
    futures.append(engine.submit(noted(order, "urgent"), Urgency.UNDER_THE_HAND))
    gate.opened.set()
    for future in futures:
        future.result(20)
    assert order == ["urgent", 0, 1, 2]
    engine.close()


def test_more_than_may_wait_is_refused() -> None:
    engine, gate = Engine(PIPELINE, waiting=2), Gate()
    engine.submit(gate)
    assert gate.begun.wait(20)
    waiting = [engine.submit(lambda pipeline: 1) for _ in range(2)]
    assert (engine.waiting, engine.running) == (2, 1)
    with pytest.raises(BusyError, match="2 photos are waiting"):
        engine.submit(lambda pipeline: 1)
    gate.opened.set()
    assert [future.result(20) for future in waiting] == [1, 1]
    assert engine.submit(lambda pipeline: 2).result(20) == 2
    engine.close()


def test_closing_finishes_running_work_and_drops_the_rest() -> None:
    engine, gate = Engine(PIPELINE), Gate()
    begun = engine.submit(gate)
    assert gate.begun.wait(20)
    dropped = engine.submit(lambda pipeline: 1)
    closing = threading.Thread(target=engine.close)
    closing.start()
    gate.opened.set()
    closing.join(20)
    assert begun.result(0) is None
    assert dropped.cancelled()
    with pytest.raises(ClosedError):
        engine.submit(lambda pipeline: 1)


def test_threads_work_at_the_same_time() -> None:
    engine, gates = Engine(PIPELINE, threads=2), [Gate(), Gate()]
    futures = [engine.submit(gate) for gate in gates]
    assert all(gate.begun.wait(20) for gate in gates)
    for gate in gates:
        gate.opened.set()
    for future in futures:
        future.result(20)
    engine.close()


def test_a_cancelled_wait_is_passed_over() -> None:
    engine, gate, order = Engine(PIPELINE), Gate(), list[Any]()
    engine.submit(gate)
    assert gate.begun.wait(20)
    given_up = engine.submit(noted(order, "given up"))
    last = engine.submit(noted(order, "last"))
    assert engine.waiting == 2
    assert given_up.cancel()
    # Its place is free at once.
    assert engine.waiting == 1
    gate.opened.set()
    last.result(20)
    assert order == ["last"]
    engine.close()
    assert (engine.waiting, engine.running) == (0, 0)
