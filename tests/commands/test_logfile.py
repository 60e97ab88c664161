"""--log-file: every message with its time, at every verbosity."""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from dehaze.commands.command import Command
from dehaze.commands.reporting import CommandError, detail, note, problem, result
from dehaze.errors import DehazeError

Invoke = Callable[..., Result]


@click.command(cls=Command)
@click.option("--end")
def command(end: str | None) -> None:
    result("a result")
    note("a note")
    detail("a detail")
    problem("a problem")
    logging.getLogger("dehaze.somewhere").debug("a line of the library")
    if end == "early":
        click.get_current_context().exit(3)
    if end == "error":
        raise DehazeError("it cannot be; mend it")
    if end == "usage":
        raise CommandError("the command is wrong")
    if end == "pipe":
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    if end == "fault":
        raise ZeroDivisionError("by nothing")


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(command, ["--log-file", "a.log", *arguments])


def lines() -> list[str]:
    """What the log holds, without the times."""
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} "
    return re.sub(f"^{stamp}", "", Path("a.log").read_text(), flags=re.MULTILINE).splitlines()


@pytest.mark.parametrize("verbosity", ["-q", None, "-v"])
def test_everything_is_logged_at_every_verbosity(invoke: Invoke, verbosity: str | None) -> None:
    done = invoke(*filter(None, [verbosity]))
    assert done.exit_code == 0
    first, *others = lines()
    assert re.match(r"INFO dehaze \d+\.\d+\.\d+: ", first)
    assert others == [
        "INFO a result",
        "INFO a note",
        "DEBUG a detail",
        "ERROR a problem",
        "DEBUG a line of the library",
        "INFO ended with exit code 0",
    ]
    assert ("a note" in done.output) == (verbosity != "-q")
    assert ("a detail" in done.output) == (verbosity == "-v")
    assert "a line of the library" not in done.output


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("early", 3, None),
        ("error", 2, "ERROR it cannot be; mend it"),
        ("usage", 2, "ERROR the command is wrong"),
        ("fault", 1, "ZeroDivisionError: by nothing"),
    ],
)
def test_the_exit_is_logged(invoke: Invoke, end: str, code: int, said: str | None) -> None:
    assert invoke("--end", end).exit_code == code
    assert lines()[-1] == f"INFO ended with exit code {code}"
    assert said is None or said in lines()


def test_a_closed_pipe_is_no_fault(invoke: Invoke) -> None:
    invoke("--end", "pipe")
    assert lines()[-1] == "INFO ended early: the reader of its output has seen enough"
    assert not any("Traceback" in line for line in lines())


def test_the_traceback_of_a_fault_is_logged_with_v_as_well(invoke: Invoke) -> None:
    assert isinstance(invoke("-v", "--end", "fault").exception, ZeroDivisionError)
    assert "ZeroDivisionError: by nothing" in lines()


def test_a_second_run_adds_to_the_log(invoke: Invoke) -> None:
    invoke()
    invoke()
    assert lines().count("INFO a result") == 2


def test_without_a_log_file_nothing_is_said_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(command, [])
    assert done.stderr == "dehaze: a note\ndehaze: a problem\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"\xff\xd8\xff\xe0 a photo", b"a list of photos\n"])
def test_a_file_that_is_no_log_stays_as_it_is(invoke: Invoke, content: bytes) -> None:
    Path("a.log").write_bytes(content)
    done = invoke()
    assert done.exit_code == 2
    assert "a.log exists and is not a log of dehaze; name another file." in done.stderr
    assert Path("a.log").read_bytes() == content
    assert done.stdout == ""


def test_a_log_that_cannot_be_written_is_named(invoke: Invoke) -> None:
    done = invoke("--log-file", "nowhere/a.log")
    assert done.exit_code == 2
    assert "nowhere/a.log cannot be written (No such file or directory)" in done.stderr
