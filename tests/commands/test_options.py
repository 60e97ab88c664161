"""An option that has no effect beside the others is refused by name, in every command."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

import dehaze.commands
from dehaze.commands import COMMANDS, main
from dehaze.commands.command import HEADINGS, Command, Condition, Option, option, with_any, without
from dehaze.commands.param_types import Number
from dehaze.photos import write_photo
from dehaze.ranges import STRENGTH, Range

RUN = ("run", "in")
EDIT = ("edit", "a.png", "--source", "a photo", "--target", "a city")
INVERT = ("invert", "a.png", "-o", "a.safetensors")
BETWEEN = ("interpolate", "a.png", "b.png", "--centroid")
GENERATE = ("generate", "in", "--prompt", "a photo", "--clip", "clip")
CONCEPTS = ("evaluate", "concepts", "in", "--classifier", "judge.pt")
FOLDER = ("evaluate", "folder", "in")
VARIANTS = ("evaluate", "variants", "in")
RECONSTRUCT = ("evaluate", "inversion", "in")
PIE_BENCH = ("evaluate", "pie-bench", "--root", "in", "--results", "in")

CHOICE_OF_MODEL = (
    ("--model", "bundled"),
    ("--revision", "main"),
    ("--variant", "fp16"),
    ("--local-files-only",),
    ("--device", "cpu"),
    ("--dtype", "float16"),
)

# A command, other options, and an option that has no effect beside them.
IDLE = [
    *(
        (RUN, ("--method", method), idle)
        for method in ("dcp", "cap")
        for idle in (
            ("--strength", "0.5"),
            ("--exposure", "keep"),
            ("--prompt", "a photo with haze"),
            ("--word", "haze"),
            ("--null-text", "delete"),
            ("--mode", "direct"),
            ("--guidance", "2"),
            ("--solver", "anderson"),
            ("--predictor", "ife"),
            ("--criterion", "residual"),
            ("--iterations", "2"),
            ("--steps", "3"),
            ("--tolerance", "0.1"),
            ("--recovery", "physics"),
            ("--save", "attention"),
            ("--batch-size", "2"),
            *CHOICE_OF_MODEL,
        )
    ),
    *(
        (("run", "in/photo.png"), ("--output", "-"), idle)
        for idle in (
            ("--suffix", "_clear"),
            ("--save", "trace"),
            ("--watch",),
            ("--resume",),
            ("--report",),
            ("--dry-run",),
            ("--batch-size", "2"),
            ("--executor", "local"),
            ("--workers", "2"),
            ("--json",),
        )
    ),
    *(
        (("run", "in/clip.mp4"), (), idle)
        for idle in (
            ("--format", "png"),
            ("--quality", "80"),
            ("--suffix", "_clear"),
            ("--save", "attention"),
            ("--watch",),
            ("--report",),
            ("--method", "dcp"),
            ("--batch-size", "2"),
            ("--executor", "local"),
            ("--workers", "2"),
            ("--mode", "plain"),
            ("--guidance", "2"),
            ("--predictor", "ife"),
            ("--recovery", "none"),
        )
    ),
    (RUN, ("--format", "png"), ("--quality", "80")),
    # No photo in the folder has a quality.
    (RUN, (), ("--quality", "80")),
    (RUN, (), ("--ray-address", "10.0.0.1:6379")),
    (RUN, ("--solver", "edict"), ("--tolerance", "0.1")),
    (RUN, ("--solver", "edict"), ("--predictor", "ife")),
    (RUN, ("--solver", "ddim"), ("--criterion", "residual")),
    (RUN, ("--solver", "ddim"), ("--iterations", "2")),
    (RUN, (), ("--mode", "null-text")),
    (RUN, ("--solver", "edict", "--guidance", "2"), ("--mode", "direct")),
    (RUN, ("--recovery", "affine"), ("--save", "transmission")),
    (RUN, ("--recovery", "none"), ("--save", "depth")),
    (RUN, ("--strength", "0.5"), ("--save", "depth")),
    (RUN, ("--dry-run",), ("--watch",)),
    (RUN, ("--dry-run",), ("--report",)),
    (RUN, ("--json",), ("--quiet",)),
    (RUN, ("--verbose",), ("--quiet",)),
    (EDIT, (), ("--exclude", "haze")),
    (EDIT, (), ("--blend-threshold", "0.5")),
    (EDIT, (), ("--focus", "haze")),
    (EDIT, ("--eta", "0.5", "--samples", "2", "--clip", "clip"), ("--focus", "haze")),
    (EDIT, ("--eta", "0.5"), ("--clip", "clip")),
    (EDIT, (), ("--fresh-source",)),
    (EDIT, ("--inversion", "a.safetensors"), ("--inversion-guidance", "2")),
    (EDIT, (), ("--samples", "2")),
    (EDIT, (), ("--seed", "2")),
    (("edit", *EDIT[2:], "--generate", "7"), (), ("--depth", "2")),
    (("edit", *EDIT[2:], "--generate", "7"), (), ("--solver", "ddim")),
    (("edit", *EDIT[2:], "--generate", "7"), (), ("--recovery", "none")),
    *(
        (EDIT, ("--inversion", "a.safetensors"), chosen)
        for chosen in (("--steps", "2"), ("--depth", "2"), ("--solver", "ddim"))
    ),
    (BETWEEN, (), ("--pictures", "3")),
    (BETWEEN, (), ("--path", "slerp")),
    (GENERATE, (), ("--seed", "2")),
    (CONCEPTS, ("--method", "noise"), ("--solver", "ddim")),
    (CONCEPTS, ("--method", "noise"), ("--photos", "2")),
    (CONCEPTS, ("--method", "centroid"), ("--pictures", "2")),
    (CONCEPTS, ("--method", "nao"), ("--seed", "3")),
    (CONCEPTS, ("--method", "nao"), ("--clip", "clip")),
    (INVERT, (), ("--mode", "direct")),
    *(
        (INVERT, ("--solver", "bdia"), chosen)
        for chosen in (
            ("--predictor", "previous"),
            ("--relaxation", "none"),
            ("--criterion", "intra-path"),
            ("--iterations", "2"),
            ("--tolerance", "0.1"),
            ("--check",),
        )
    ),
    (INVERT, ("--solver", "ddim"), ("--iterations", "2")),
    (INVERT, (), ("--adjust-repeats", "2")),
    *(
        (FOLDER, ("--method", "dcp"), chosen)
        for chosen in (
            *CHOICE_OF_MODEL,
            ("--prompt", "a photo with haze"),
            ("--word", "haze"),
            ("--strength", "0.5"),
            ("--solver", "ddim"),
            ("--steps", "2"),
            ("--tolerance", "0.1"),
            ("--recovery", "none"),
            ("--no-ceilings",),
        )
    ),
    (FOLDER, (), ("--seed", "2")),
    (FOLDER, ("--oracle",), ("--strength", "0.5")),
    # Without ground truth, which the folder must be opened to know.
    *(
        (FOLDER, (), chosen)
        for chosen in (
            ("--ssim", "y"),
            ("--psnr", "yiq"),
            ("--float",),
            ("--crop-border", "2"),
            ("--oracle",),
            ("--ceilings",),
        )
    ),
    (RECONSTRUCT, (), ("--seed", "2")),
    (RECONSTRUCT, (), ("--clip", "clip")),
    (RECONSTRUCT, ("--captions", "captions.tsv"), ("--render", "haze")),
    (VARIANTS, (), ("--seed", "2")),
    *(
        (PIE_BENCH, (), chosen)
        for chosen in (
            ("--mode", "direct"),
            ("--guidance", "2"),
            ("--blend",),
            *CHOICE_OF_MODEL,
            ("--steps", "2"),
            ("--solver", "ddim"),
            ("--criterion", "residual"),
            ("--iterations", "2"),
            ("--tolerance", "0.1"),
        )
    ),
    (PIE_BENCH[:4], ("--solver", "ddim,edict"), ("--criterion", "residual")),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    write_photo(tmp_path / "in/photo.png", np.zeros((8, 8, 3), np.float32))
    (tmp_path / "in/clip.mp4").touch()
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("command", "beside", "idle"), IDLE, ids=" ".join)
def test_an_idle_option_is_refused_by_name(
    command: tuple[str, ...], beside: tuple[str, ...], idle: tuple[str, ...]
) -> None:
    done = CliRunner().invoke(main, [*command, *beside, *idle])
    assert done.exit_code == 2
    said = " ".join(done.stderr.split())
    flag = idle[0].replace("--no-", "--")
    assert f"Error: {flag} has an effect only with" in said
    assert said.endswith("; leave it out.")
    assert done.stdout == ""


def commands(group: click.Command, *path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command below a group that is no group itself."""
    if not isinstance(group, click.Group):
        yield " ".join(path), group
        return
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield from commands(command, *path, name)


ALL = dict(commands(main))


def test_every_condition_of_an_option_has_a_case() -> None:
    """Every option with a condition has a case in the list above."""
    shown = {
        (name, idle[0].replace("--no-", "--"))
        for command, _, idle in IDLE
        for name in (command[0], " ".join(command[:2]))
    }
    for name, command in ALL.items():
        for parameter in command.params:
            if isinstance(parameter, Option) and parameter.effects:
                flags = {*parameter.opts, *parameter.secondary_opts}
                assert any((name.replace("reside", "folder"), flag) in shown for flag in flags) or (
                    parameter.flag == "--quiet"
                ), (name, parameter.flag)


@pytest.mark.parametrize("name", ALL)
def test_conditions_name_existing_options(name: str) -> None:
    parameters = ALL[name].params
    flags = {flag for each in parameters for flag in (*each.opts, *each.secondary_opts)}
    for each in parameters:
        # All commands have --quiet; not all have the options that it is refused beside.
        if isinstance(each, Option) and each.flag != "--quiet":
            for effect in each.effects:
                assert set(re.findall(r"--[\w-]+", effect.where)) <= flags, each.name


@pytest.mark.parametrize(
    "arguments",
    [
        ("edit", *EDIT[2:], "--generate", str(2**64)),
        (*EDIT, "--eta", "0.5", "--seed", str(2**64)),
    ],
)
def test_a_seed_that_no_generator_takes_is_named(arguments: tuple[str, ...]) -> None:
    done = CliRunner().invoke(main, list(arguments))
    assert done.exit_code == 2
    assert f"Invalid value for '{arguments[-2]}'" in done.stderr


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_the_same_shape(name: str) -> None:
    command = ALL[name]
    assert isinstance(command, Command)
    done = CliRunner().invoke(main, [*name.split(), "--help"])
    assert done.exit_code == 0
    titles = [line.removesuffix(":") for line in done.stdout.splitlines() if line.endswith(":")]
    headings = [title for title in titles if title in HEADINGS]
    assert headings == [heading for heading in HEADINGS if heading in headings]
    assert headings[-1] == "General"
    assert "-q, --quiet" in done.stdout
    assert "-v, --verbose" in done.stdout
    for parameter in command.params:
        assert isinstance(parameter, (Option, click.Argument)), parameter
        assert not isinstance(parameter, Option) or parameter.help, parameter.name
    assert "NFE" not in done.stdout


def test_commands_print_through_reporting_alone() -> None:
    """Output that bypasses ``dehaze.commands.reporting`` would ignore -q."""
    folder = Path(dehaze.commands.__file__).parent
    for path in set(folder.rglob("*.py")) - {folder / "reporting.py"}:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in ("click.echo", "print"), (path, node.lineno)


@pytest.mark.parametrize("name", ALL)
def test_commands_with_a_model_have_its_file_options(name: str) -> None:
    parameters = {parameter.name for parameter in ALL[name].params}
    files = {"revision", "variant", "local_files_only"}
    assert files & parameters == (files if "model" in parameters else set())


@pytest.mark.parametrize("value", ["0", "nan", "inf"])
@pytest.mark.parametrize("limit", ["--max-upload", "--max-megapixels"])
@pytest.mark.parametrize("command", ["ui", "serve"])
def test_a_server_refuses_a_limit_out_of_range(command: str, limit: str, value: str) -> None:
    done = CliRunner().invoke(main, [command, limit, value])
    assert done.exit_code == 2
    assert f"{limit}': {value} is out of range: it must be above 0." in done.stderr


@pytest.mark.parametrize("value", ["-1", "50", "nan", "inf", "-inf", "2.01", "a lot"])
@pytest.mark.parametrize("command", [RUN, EDIT, FOLDER])
@pytest.mark.usefixtures("folder")
def test_a_number_out_of_range_is_refused(command: tuple[str, ...], value: str) -> None:
    done = CliRunner().invoke(main, [*command, "--strength", value])
    assert done.exit_code == 2
    assert "'--strength'" in done.stderr
    if value != "a lot":
        with pytest.raises(ValueError, match=r"strength is .*: it must be 0 to 2"):
            STRENGTH.check(float(value))
        assert "it must be 0 to 2" in done.stderr


def test_conditions_are_checked_for_given_options_only() -> None:
    def never(given: object) -> bool:
        raise AssertionError("not given")

    @click.command(cls=Command)
    @option(
        "--first", type=Number(Range("first", 0)), default=1.0, effect=Condition(never, "never")
    )
    @option("--second", effect=(with_any("third"), without("fourth")))
    @option("--third", is_flag=True)
    @option("--fourth", multiple=True)
    def command(**values: object) -> None:
        click.echo("ran")

    def call(*arguments: str) -> str:
        return CliRunner().invoke(command, arguments).output

    assert call() == call("--third") == call("--third", "--second", "a") == "ran\n"
    assert "--second has an effect only with --third; leave it out" in call("--second", "a")
    assert "only without --fourth" in call("--third", "--second", "a", "--fourth", "b")


def test_every_command_is_one_that_the_group_lists() -> None:
    assert {name.split()[0] for name in ALL} == set(COMMANDS)
