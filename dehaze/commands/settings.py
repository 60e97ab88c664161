"""``--config``: a file of options, one a line, as they are written on the command line."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from dehaze.commands.command import GENERAL, Option, option

_CONFIG = "config"
_YES, _NO = ("yes", "true", "on", "1"), ("no", "false", "off", "0")


def config_option(command: Any) -> Any:
    """``--config FILE``: options from a file, for those that the command line does not give."""
    return option(
        f"--{_CONFIG}",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        metavar="FILE",
        is_eager=True,
        multiple=True,
        expose_value=False,
        callback=_take,
        heading=GENERAL,
        help="Take options from a file, one a line, such as strength = 0.6 or report; those of the "
        "command line come first. May be repeated: a later file comes before an earlier one.",
    )(command)


def _take(context: click.Context, parameter: click.Parameter, paths: tuple[Path, ...]) -> None:
    if paths and not context.resilient_parsing:
        context.default_map = {
            name: value for path in paths for name, value in read_config(context, path).items()
        }


def read_config(context: click.Context, path: Path) -> dict[str, Any]:
    """The values that a file gives to a command's options, by their names in Python.

    Raises:
        click.UsageError: the file cannot be read, a line is no option, or its value is wrong.
    """
    try:
        # Some editors on Windows put a byte order mark at the beginning.
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(
            f"{path} cannot be read ({error}); write one option a line, such as strength = 0.6.",
            context,
        ) from error
    values: dict[str, Any] = {}
    for number, line in enumerate(lines, 1):
        name, equals, value = (part.strip() for part in line.partition("="))
        if not name or name.startswith("#"):
            continue
        try:
            chosen = _option_named(context.command, name)
            if chosen.name in values:
                raise click.UsageError("says again what an earlier line says; leave it out.")
            values[str(chosen.name)] = _value(context, chosen, name, value if equals else None)
        except click.UsageError as error:
            where = f"{path}, line {number} ({name}): "
            raise click.UsageError(where + error.message, context) from error
    return values


def _option_named(command: click.Command, name: str) -> click.Option:
    named = {
        flag.removeprefix("--"): each
        for each in command.params
        if isinstance(each, click.Option) and each.name != _CONFIG
        for flag in (*each.opts, *each.secondary_opts)
        if flag.startswith("--")
    }
    if name not in named:
        close = get_close_matches(name, named, n=1)
        cure = f"did you mean {close[0]}?" if close else "--help names all that there are."
        raise click.UsageError(f"is no option; {cure}")
    return named[name]


def _value(context: click.Context, chosen: click.Option, name: str, value: str | None) -> Any:
    """The value of an option as its type has it."""
    if chosen.is_flag:
        answer = (value or _YES[0]).lower()
        if answer not in (*_YES, *_NO):
            raise click.UsageError(f"{value!r} is neither yes nor no; leave the value out.")
        return (answer in _YES) is (f"--{name}" in chosen.opts)
    given = value or (chosen.value_alone if isinstance(chosen, Option) else None)
    if not given:
        raise click.UsageError(f"needs a value; write {name} = ...")
    if isinstance(chosen.type, click.Path):
        # A shell does this for the command line.
        given = os.path.expanduser(given)
    return chosen.type_cast_value(context, given)
