"""--config: a file gives options, the command line comes first, every mistake has its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from dehaze.commands import main
from dehaze.photos import write_photo


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    write_photo("in/a.png", np.full((8, 8, 3), 0.5, np.float32))


def run(text: str, *arguments: str) -> Result:
    Path("my.conf").write_text(text)
    return CliRunner().invoke(main, ["run", "in", "--config", "my.conf", *arguments])


def test_a_file_gives_options_of_every_kind() -> None:
    done = run("# of this folder\n\nmethod = dcp\noutput=clear\nreport\njson = yes\n")
    assert done.exit_code == 0, done.output
    assert Path("clear/a.png").is_file()
    assert Path("clear/report.html").is_file()
    assert done.stdout.startswith('{"event": "photo", ')


def test_a_byte_order_mark_is_passed_over() -> None:
    done = run("\ufeffmethod = dcp\noutput = clear")
    assert done.exit_code == 0, done.output
    assert Path("clear/a.png").is_file()


def test_the_command_line_comes_first() -> None:
    done = run("output = clear\nmethod = cap\ndry-run = no", "--method", "dcp", "-o", "other")
    assert done.exit_code == 0, done.output
    assert Path("other/a.png").is_file()
    assert not Path("clear").exists()


def test_of_two_files_the_later_comes_first() -> None:
    Path("base.conf").write_text("method = dcp\noutput = clear\nformat = png")
    done = run("output = other", "--config", "base.conf")
    assert done.exit_code == 0, done.output
    assert Path("clear/a.png").is_file()
    Path("base.conf").write_text("method = dcp\noutput = clear\nreport")
    Path("own.conf").write_text("output = other")
    files = ["--config", "base.conf", "--config", "own.conf"]
    done = CliRunner().invoke(main, ["run", "in", *files])
    assert done.exit_code == 0, done.output
    assert Path("other/a.png").is_file()
    assert Path("other/report.html").is_file()


def test_the_second_name_of_a_switch_is_its_opposite() -> None:
    assert run("method = dcp").stdout.startswith("1 done; ")
    assert run("method = dcp").stdout.startswith("0 done, 1 kept")
    assert run("method = dcp\noverwrite").stdout.startswith("1 done; ")
    assert run("method = dcp\noverwrite = no").stdout.startswith("0 done, 1 kept")
    assert run("method = dcp\noverwrite", "--resume").stdout.startswith("0 done, 1 kept")


def test_an_option_may_be_given_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", sleep)
    for text in ("watch", "watch = 3"):
        assert run(f"method = dcp\n{text}").exit_code == 0
    assert waits == [5.0, 3.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("strenth = 1", "my.conf, line 1 (strenth): is no option; did you mean strength?"),
        ("\n[run]", "my.conf, line 2 ([run]): is no option; --help names all"),
        ("config = a", "line 1 (config): is no option"),
        ("strength = 6", "line 1 (strength): 6 is out of range: it must be 0 to 2."),
        ("strength", "line 1 (strength): needs a value"),
        ("report = perhaps", "line 1 (report): 'perhaps' is neither yes nor no;"),
        ("resume\noverwrite", "line 2 (overwrite): says again what an earlier line says;"),
        ("method = dcp\nstrength = 0.5", "--strength of the --config file has an effect only with"),
        ("\x00\ud800", "my.conf cannot be read"),
    ],
)
def test_a_mistake_in_the_file_is_named(text: str, message: str) -> None:
    Path("my.conf").write_bytes(text.encode("utf-8", "surrogatepass"))
    done = CliRunner().invoke(main, ["run", "in", "--config", "my.conf"])
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert not Path("dehazed").exists()


def test_a_file_that_is_not_there_is_named() -> None:
    done = CliRunner().invoke(main, ["run", "in", "--config", "none.conf"])
    assert done.exit_code == 2
    assert "'none.conf' does not exist" in done.stderr


def test_a_switch_that_is_off_is_no_idle_option() -> None:
    done = run("method = dcp\noutput = clear\nreport = no", "--dry-run")
    assert done.exit_code == 0, done.output
    done = run("method = dcp\noutput = clear\nreport = yes", "--dry-run")
    assert "--report of the --config file has an effect only" in done.stderr


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    done = run("method = dcp\noutput = ~/clear")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "home/clear/a.png").is_file()
