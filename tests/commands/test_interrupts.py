"""SIGTERM interrupts inside the context, and is as before after it."""

from __future__ import annotations

import signal
import threading

import pytest

from dehaze.commands.interrupts import termination_interrupts


def test_sigterm_interrupts_and_its_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with termination_interrupts() as received:
        assert received == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert received == [signal.SIGINT, signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_leaves_the_handler_alone() -> None:
    found: list[object] = []

    def look() -> None:
        with termination_interrupts():
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [before]
