"""dehaze run - -o -: a photo from standard input, its result to standard output."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import dehaze
from dehaze.commands import main
from dehaze.commands.reporting import CommandError
from dehaze.commands.streaming import STREAM, check_streams
from dehaze.photos import FloatArray, read_photo, write_photo
from dehaze.priors import PRIORS

CLI = Path(dehaze.__file__).resolve().parents[1] / "cli.py"


@pytest.fixture(autouse=True)
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FloatArray:
    """A photo called a.png in the working folder."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).uniform(0.4, 0.9, (30, 40, 3)).astype(np.float32)
    write_photo("a.png", pixels)
    return read_photo("a.png").pixels


def run(*arguments: str, given: bytes = b"") -> Result:
    return CliRunner().invoke(main, ["run", "--method", "dcp", *arguments], input=given)


def expected(pixels: FloatArray) -> FloatArray:
    return np.rint(np.clip(PRIORS.get("dcp").run(pixels), 0, 1) * 255) / np.float32(255)


def test_a_photo_goes_through_a_pipe(tmp_path: Path, scene: FloatArray) -> None:
    done = subprocess.run(
        [sys.executable, CLI, "run", "-", "-o", "-", "--method", "dcp"],
        input=Path("a.png").read_bytes(),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    Path("b.png").write_bytes(done.stdout)
    np.testing.assert_array_equal(read_photo("b.png").pixels, expected(scene))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_the_default_method_goes_through_a_pipe_as_well(tmp_path: Path) -> None:
    given = Path("a.png").read_bytes()
    done = CliRunner().invoke(main, ["run", "-", "-o", "-"], input=given)
    assert done.exit_code == 0, done.stderr
    assert CliRunner().invoke(main, ["run", "a.png", "-o", "out"]).exit_code == 0
    assert done.stdout_bytes == Path("out/a.png").read_bytes()


def test_a_file_goes_to_standard_output_in_another_format() -> None:
    done = run("a.png", "-o", "-", "--format", "jpg", "--quality", "50")
    assert done.exit_code == 0, done.stderr
    with Image.open(io.BytesIO(done.stdout_bytes)) as image:
        assert (image.format, image.size) == ("JPEG", (40, 30))


def test_notes_and_cost_go_to_standard_error() -> None:
    Image.new("CMYK", (8, 8)).save("c.jpg")
    given = Path("c.jpg").read_bytes()
    done = run("-", "-o", "-", "-v", given=given)
    assert done.exit_code == 0
    assert "dehaze: standard input: note: converted from CMYK to sRGB\n" in done.stderr
    assert done.stdout_bytes.startswith(b"\xff\xd8")
    assert run("-", "-o", "-", "-q", given=given).stderr == ""


@pytest.mark.parametrize(
    ("given", "cause"),
    [(b"", "is empty (0 bytes)"), (b"a letter", "is not a photo that can be read")],
)
def test_input_that_is_no_photo_fails_and_writes_nothing(given: bytes, cause: str) -> None:
    done = run("-", "-o", "-", given=given)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"dehaze: standard input: {cause}; ")
    assert done.stdout_bytes == b""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-"], "a photo from standard input has no name to be written under; add -o -."),
        (["-", "a.png", "-o", "-"], "-o - takes one photo; name a folder with -o."),
        ([".", "-o", "-"], "-o - takes one photo; name a folder with -o."),
        (["a.png", "-o", "-", "--quality", "50"], "only with photos that are JPEG or WebP"),
    ],
)
def test_options_that_do_not_fit_a_pipe_are_refused(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert done.stdout_bytes == b""


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        ("stdout", "the photo would go to the terminal"),
        ("stdin", "no photo comes from standard input"),
    ],
)
def test_a_terminal_at_either_end_is_refused(stream: str, message: str) -> None:
    code = (
        "import sys\n"
        f"sys.{stream}.isatty = lambda: True\n"
        "from dehaze.commands import main\n"
        "main(['run', '-', '-o', '-', '--method', 'dcp'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=b"", capture_output=True, check=False, cwd=CLI.parent
    )
    assert done.returncode == 2
    assert message.encode() in done.stderr
    assert done.stdout == b""


@pytest.mark.parametrize(("closed", "named"), [("stdin", "input"), ("stdout", "output")])
def test_a_closed_stream_is_named(monkeypatch: pytest.MonkeyPatch, closed: str, named: str) -> None:
    context = click.Context(main)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, closed, None)
    with pytest.raises(CommandError, match=f"standard {named} is closed"):
        check_streams(context, (STREAM,), STREAM)
