"""The base of every command: help in groups, one-line errors, a log, no idle option."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from dehaze.commands.reporting import Verbosity, speaking
from dehaze.imports import uncollected

# The headings of a command's help, in this order.
FIRST = "Options"
MACHINE = "Model and machine"
RESEARCH = "For research"
GENERAL = "General"
HEADINGS = (FIRST, MACHINE, RESEARCH, GENERAL)

Values = Mapping[str, Any]
"""The values of a command's parameters, by their names in Python."""

Decorator = Callable[[Any], Any]
"""Gives a command an option, or several."""


@dataclass(frozen=True)
class Condition:
    """Where an option has an effect.

    Attributes:
        holds: whether the option has an effect with these values.
        where: the same in words, after "only": "with --executor ray".
        of_input: ``holds`` also reads what the inputs contain, see ``refuse_idle_options``.
    """

    holds: Callable[[Values], bool]
    where: str
    of_input: bool = False


def with_value(parameter: str, *values: str) -> Condition:
    """Where another option has one of these values."""
    words = f"with --{parameter.replace('_', '-')} {' or '.join(values)}"
    return Condition(lambda given: given[parameter] in values, words)


def with_any(*parameters: str) -> Condition:
    """Where at least one of these options is given."""
    flags = " or ".join(f"--{parameter.replace('_', '-')}" for parameter in parameters)
    return Condition(
        lambda given: any(_is_given(given[one]) for one in parameters), f"with {flags}"
    )


def without(*parameters: str) -> Condition:
    """Where none of these options is given."""
    flags = " and ".join(f"--{parameter.replace('_', '-')}" for parameter in parameters)
    return Condition(
        lambda given: not any(_is_given(given[one]) for one in parameters), f"without {flags}"
    )


def _is_given(value: Any) -> bool:
    """Whether an option that has no default, or is a switch that is off, was given."""
    return value is not None and value is not False and value != ()


class Option(click.Option):
    """An option with a place in the help, which is refused where it would do nothing.

    Args:
        heading: one of ``HEADINGS``.
        effect: where it has an effect; all of these must hold.
    """

    def __init__(
        self,
        *arguments: Any,
        heading: str = FIRST,
        effect: Condition | tuple[Condition, ...] = (),
        **attributes: Any,
    ) -> None:
        super().__init__(*arguments, **attributes)
        self.heading = heading
        # The value of an option that is given without one, such as --watch.
        self.value_alone = None if self.is_flag else attributes.get("flag_value")
        self.effects = (effect,) if isinstance(effect, Condition) else effect

    @property
    def flag(self) -> str:
        """Its long name."""
        return max(self.opts, key=len)


def option(*names: str, **attributes: Any) -> Decorator:
    """``click.option`` of this class."""
    return click.option(*names, cls=Option, **attributes)


def several(*declared: Decorator) -> Decorator:
    """All of these options, in this order."""

    def declare(command: Any) -> Any:
        for each in reversed(declared):
            command = each(command)
        return command

    return declare


def refuse_idle_options(context: click.Context, found: Values | None = None) -> None:
    """Refuse the first option that was given and does nothing.

    Args:
        context: of the command.
        found: what the inputs contain, under names that the command chooses; None before they are
            opened. Conditions with ``of_input`` are checked only with it, all others only without.

    Raises:
        click.UsageError: names the option and where it has an effect.
    """
    for parameter in context.command.params:
        if not isinstance(parameter, Option) or parameter.name is None:
            continue
        source = context.get_parameter_source(parameter.name)
        of_file = source is ParameterSource.DEFAULT_MAP
        if source is ParameterSource.DEFAULT:
            continue
        given, default = context.params.get(parameter.name), parameter.default is True
        if of_file and parameter.is_flag and given is default:
            # A file may say that a switch stays as it is.
            continue
        for effect in parameter.effects:
            if effect.of_input is (found is None):
                continue
            if not effect.holds({**context.params, **(found or {})}):
                named = parameter.flag + (" of the --config file" if of_file else "")
                raise click.UsageError(
                    f"{named} has an effect only {effect.where}; leave it out.", context
                )


def _verbosity_options() -> list[click.Parameter]:
    return [
        Option(
            ["-q", "--quiet"],
            is_flag=True,
            heading=GENERAL,
            effect=Condition(
                lambda given: not given.get("as_json") and not given["verbose"],
                "without --json and --verbose",
            ),
            help="Say nothing but what went wrong.",
        ),
        Option(
            ["-v", "--verbose"],
            is_flag=True,
            heading=GENERAL,
            help="Say more: the cost of each result, and what a fault report needs.",
        ),
        Option(
            ["--log-file"],
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            heading=GENERAL,
            help="Add all that is said, and what a fault report needs, to this file.",
        ),
    ]


class Command(click.Command):
    """A click command with help in groups, one-line errors, a log, and no idle option."""

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.params += _verbosity_options()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # Choices come from registries, and the first one imports PyTorch.
        with uncollected():
            rest = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:
            refuse_idle_options(ctx)
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        quiet, verbose = ctx.params.pop("quiet"), ctx.params.pop("verbose")
        level = Verbosity(Verbosity.NORMAL + int(verbose) - int(quiet))
        with speaking(ctx, level, ctx.params.pop("log_file")):
            return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows: dict[str, list[tuple[str, str]]] = {heading: [] for heading in HEADINGS}
        for parameter in self.get_params(ctx):
            row = parameter.get_help_record(ctx)
            if row is not None and isinstance(parameter, click.Option):
                rows[getattr(parameter, "heading", GENERAL)].append(row)
        for heading, of_heading in rows.items():
            if of_heading:
                with formatter.section(heading):
                    formatter.write_dl(of_heading)


class Group(click.Group):
    """A command of several subcommands, each a ``Command``."""

    command_class = Command
