"""A command line over the library: one click command a file.

A command's file is imported only when that command is called, and a command imports the network
libraries only when it runs: ``dehaze --help`` answers at once.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import click

from dehaze import __version__

# Stated here so that the list of commands needs no import of them.
COMMANDS = {
    "run": "Remove the haze from photos and folders of photos.",
    "edit": "Edit a photo, or a generated picture, by two prompts.",
    "attention": "Show where in a photo the model attends to a word.",
    "interpolate": "Make the pictures between two photos.",
    "invert": "Invert a photo and show how the inversion converged.",
    "evaluate": "Measure a model on published data sets.",
    "models": "Say which models there are, and whether their files are whole.",
    "doctor": "Say what is installed, what is missing, and what to do.",
}


class CommandError(click.ClickException):
    """The command cannot start: one line on stderr, cause and cure, and exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"dehaze: {self.format_message()}", err=True)


class RegistryChoice(click.ParamType):
    """One of the names in a registry, which is asked only once a value is given."""

    name = "choice"

    def __init__(self, choices: Callable[[], Iterable[str]]) -> None:
        self._choices = choices

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        names = list(self._choices())
        if value not in names:
            self.fail(f"{value!r} is not one of {', '.join(names)}.", param, ctx)
        return str(value)


class CommandGroup(click.Group):
    """A group whose commands live in files of their own, under their own names."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"dehaze.commands.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dehaze")
def main() -> None:
    """Remove haze from photos with nothing but the word "haze"."""
    # By default torch's threads wait for each other by spinning. With another program on one of the
    # cores that makes a photo fifty times slower; to sleep costs next to nothing. OpenMP reads this
    # when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def quiet_photo_libraries() -> None:
    """Keep what photo libraries say of odd files off the terminal: the commands say it by name."""
    import cv2

    warnings.simplefilter("ignore")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def quiet_libraries() -> None:
    """Keep the libraries' warnings, logs and loading bars off the terminal; downloads still show.

    What a user has to know, the commands say themselves.
    """
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import enable_progress_bars  # type: ignore[attr-defined]
    from transformers.utils import logging as transformers_logging

    quiet_photo_libraries()
    for library_logging in (diffusers_logging, transformers_logging):
        library_logging.set_verbosity_error()
        library_logging.disable_progress_bar()
    enable_progress_bars()
