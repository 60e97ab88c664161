"""The command line answers at once, and from a checkout as well."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

import dehaze
from dehaze.commands import COMMANDS, RegistryChoice, main

ROOT = Path(dehaze.__file__).resolve().parents[1]


def python(code: str, *, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["run", "--help"],
        ["doctor", "--help"],
        ["models", "list"],
    ],
)
def test_commands_without_a_model_import_no_heavy_library(
    arguments: list[str], tmp_path: Path
) -> None:
    done = python(
        "import sys\n"
        "from dehaze.commands import main\n"
        f"assert not main({arguments!r}, standalone_mode=False)\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'cv2', 'numpy', 'PIL', 'skimage'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)",
        folder=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_a_dry_run_imports_no_network_library(tmp_path: Path) -> None:
    """Worker processes start before the import, so that all processes load at the same time."""
    done = python(
        "import sys\n"
        "from dehaze.commands import main\n"
        f"main(['run', {str(ROOT / 'examples')!r}, '--dry-run'], standalone_mode=False)\n"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)",
        folder=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_help_lists_every_command_and_each_is_there() -> None:
    listing = CliRunner().invoke(main, ["--help"]).output
    for name, summary in COMMANDS.items():
        command = getattr(import_module(f"dehaze.commands.{name}"), name)
        assert isinstance(command, click.Command)
        assert command.name == name
        assert f"{name} " in listing
        assert summary in listing


@pytest.mark.parametrize(("shell", "word"), [("bash", "2"), ("zsh", "2"), ("fish", "--expo")])
def test_help_names_the_completion_of_the_shell(shell: str, word: str) -> None:
    said = " ".join(CliRunner().invoke(main, ["--help"]).output.split())
    assert f"_DEHAZE_COMPLETE={shell}_source dehaze" in said
    asked = {"COMP_WORDS": "dehaze run --expo", "COMP_CWORD": word, "COMP_TYPE": "9"}
    done = python(
        "import os\n"
        f"os.environ.update({asked | {'_DEHAZE_COMPLETE': f'{shell}_complete'}!r})\n"
        "from dehaze.commands import main\n"
        "main(prog_name='dehaze')"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "--exposure" in done.stdout


@pytest.mark.parametrize(
    ("option", "typed", "expected"),
    [
        ("--solver", "fixed", ["fixed-point"]),
        ("--save", "attention,tra", ["attention,trace", "attention,transmission"]),
        ("--exposure", "", ["scene", "keep"]),
        ("--format", "ti", ["tif", "tiff"]),
    ],
)
def test_the_tab_key_completes_values(option: str, typed: str, expected: list[str]) -> None:
    found = ShellComplete(main, {}, "dehaze", "").get_completions(["run", option], typed)
    assert [item.value for item in found] == expected


def test_version_and_unknown_command() -> None:
    assert dehaze.__version__ in CliRunner().invoke(main, ["--version"]).output
    unknown = CliRunner().invoke(main, ["defog"])
    assert unknown.exit_code == 2
    assert "'defog' is no command" in unknown.stderr


@pytest.mark.parametrize(("before", "after"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_sleep_while_they_wait_unless_told_otherwise(
    before: str | None, after: str
) -> None:
    done = python(
        "import os, sys\n"
        "os.environ.pop('OMP_WAIT_POLICY', None)\n"
        f"os.environ.update({{'OMP_WAIT_POLICY': {before!r}}} if {before!r} else {{}})\n"
        "from dehaze.commands import main\n"
        "main(['doctor', '--help'], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules\n"
        "print(os.environ['OMP_WAIT_POLICY'])"
    )
    assert done.stdout.splitlines()[-1] == after


def choices_below(command: click.Command) -> list[click.Parameter]:
    """Every option of a command, or of those that it groups, whose value is a registry's."""
    below = command.commands.values() if isinstance(command, click.Group) else ()
    own = [one for one in command.params if isinstance(one.type, RegistryChoice)]
    return own + [one for each in below for one in choices_below(each)]


def test_defaults_are_among_the_choices() -> None:
    """A default is not checked when its option is left out."""
    context = click.Context(main)
    commands = [main.get_command(context, name) for name in COMMANDS]
    found = [one for each in commands if each is not None for one in choices_below(each)]
    assert len(found) > 10
    for option in found:
        if isinstance(option.default, str):
            assert option.type.convert(option.default, None, None) == option.default


def test_registry_is_read_only_for_a_given_value() -> None:
    asked = 0

    def names() -> list[str]:
        nonlocal asked
        asked += 1
        return ["alpha", "beta"]

    @click.command()
    @click.option("--solver", type=RegistryChoice(names))
    def command(solver: str | None) -> None:
        click.echo(str(solver))

    assert CliRunner().invoke(command, ["--help"]).exit_code == 0
    assert CliRunner().invoke(command, []).output == "None\n"
    assert asked == 0
    assert CliRunner().invoke(command, ["--solver", "beta"]).output == "beta\n"
    wrong = CliRunner().invoke(command, ["--solver", "gamma"])
    assert wrong.exit_code == 2
    assert "'gamma' is not one of alpha, beta." in wrong.stderr


def test_from_a_checkout_the_root_hides_no_other_package() -> None:
    done = python(
        "import runpy, sys\n"
        "from importlib.util import find_spec\n"
        "sys.path[0] = sys.argv[0] = '.'\n"
        "sys.argv[1:] = ['--version']\n"
        "try:\n"
        "    runpy.run_path('cli.py', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0, end.code\n"
        "import dehaze.datasets\n"
        "for name in ('datasets', 'eval'):\n"
        "    spec = find_spec(name)\n"
        f"    assert spec is None or not str(spec.origin).startswith({str(ROOT)!r}), spec\n"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "version" in done.stdout


def test_from_a_checkout_a_missing_dependency_is_one_line() -> None:
    done = python(
        "import runpy, sys\n"
        "sys.modules['click'] = None\n"
        "runpy.run_path('cli.py', run_name='__main__')"
    )
    assert done.returncode == 1
    assert done.stderr == "dehaze: click is not installed; run: pip install -e .\n"


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("a.jpg", "dehaze run a.jpg"),
        ("folder", "dehaze run folder"),
        ("rnu", "did you mean run?"),
        ("zzz", "there are run, "),
    ],
)
def test_an_unknown_command_has_a_hint(
    name: str, cure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(main, [name])
    assert told.exit_code == 2
    assert f"{name!r} is no command; " in told.output
    assert cure in told.output
