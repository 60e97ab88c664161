"""Progress: a bar on a terminal, lines elsewhere, nothing with -q."""

from __future__ import annotations

import io
import sys

import click
import pytest
from click.testing import CliRunner

from dehaze.commands import progress as module
from dehaze.commands.command import Command
from dehaze.commands.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that advances 25 seconds each time it is read."""

    now = 0.0

    def monotonic(self) -> float:
        self.now += 25.0
        return self.now


@click.command(cls=Command)
@click.option("--total", type=int, default=10)
@click.option("--kept", type=int, default=0)
def command(total: int, kept: int) -> None:
    with progress(total, "photo") as ended:
        for number in range(total):
            ended(kept=number < kept)


def said(*arguments: str) -> str:
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    return done.stderr


def test_without_a_terminal_a_line_comes_every_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "time", Clock())
    assert said() == (
        "dehaze: 3 of 10 photos, about 3 min left\n"
        "dehaze: 6 of 10 photos, about 2 min left\n"
        "dehaze: 9 of 10 photos, about 25 s left\n"
    )
    monkeypatch.setattr(module, "time", Clock())
    assert said("--total", "300").startswith("dehaze: 3 of 300 photos, about 2 h 4 min left\n")


def test_kept_photos_do_not_shorten_the_estimate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "time", Clock())
    assert said("--kept", "5") == (
        "dehaze: 3 of 10 photos\n"
        "dehaze: 6 of 10 photos, about 10 min left\n"
        "dehaze: 9 of 10 photos, about 1 min left\n"
    )


def test_a_short_job_and_a_quiet_one_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said() == ""
    monkeypatch.setattr(module, "time", Clock())
    assert said("-q") == ""


def test_on_a_terminal_there_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress(2, "photo") as ended:
        ended()
    assert "0/2" in terminal.getvalue()


def test_a_closed_stderr_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    context = click.Context(command)
    monkeypatch.setattr(sys, "stderr", None)
    with context, progress(2, "photo") as ended:
        ended()
