"""A command line over the library: one click command a file.

A command's file is imported only when that command is called, and a command imports the network
libraries only when it runs: ``dehaze --help`` answers at once.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

import click

from dehaze import __version__
from dehaze.commands.command import Group
from dehaze.commands.param_types import RegistryChoice
from dehaze.commands.reporting import CommandError, quiet_libraries, quiet_photo_libraries

__all__ = [
    "COMMANDS",
    "CommandError",
    "RegistryChoice",
    "main",
    "quiet_libraries",
    "quiet_photo_libraries",
]

# Stated here, so that listing the commands imports none of them.
COMMANDS = {
    "run": "Remove the haze from photos, folders of photos, and clips.",
    "ui": "Open a page in the browser to drop photos on.",
    "serve": "Answer other programs over HTTP.",
    "edit": "Edit a photo, or a generated picture, by two prompts.",
    "attention": "Show where in photos the model attends to a word.",
    "interpolate": "Make the pictures between two photos.",
    "generate": "Make new pictures of what a few photos show.",
    "invert": "Invert a photo and show how the inversion converged.",
    "evaluate": "Measure a model on published data sets.",
    "models": "List models, describe one, and check its files.",
    "doctor": "Say what is installed, what is missing, and what to do.",
}


class Commands(Group):
    """A group whose commands lie in files of their own names."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"dehaze.commands.{cmd_name}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            close = get_close_matches(name, COMMANDS, n=1)
            if Path(name).exists() or Path(name).suffix:
                cure = f"to remove the haze from photos: dehaze run {name}"
            else:
                cure = f"did you mean {close[0]}?" if close else f"there are {', '.join(COMMANDS)}"
            raise click.UsageError(f"{name!r} is no command; {cure}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Completion with the Tab key, for every new terminal"):
            formatter.write_dl(
                [
                    ("bash", f"""echo '{_completion("bash")}' >> ~/.bashrc"""),
                    ("zsh", f"""echo '{_completion("zsh")}' >> ~/.zshrc"""),
                    (
                        "fish",
                        "_DEHAZE_COMPLETE=fish_source dehaze > "
                        "~/.config/fish/completions/dehaze.fish",
                    ),
                ]
            )


def _completion(shell: str) -> str:
    return f'eval "$(_DEHAZE_COMPLETE={shell}_source dehaze)"'


_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=Commands, context_settings=_CONTEXT)
@click.version_option(__version__, prog_name="dehaze")
def main() -> None:
    """Remove haze from photos with nothing but the word "haze"."""
    # By default torch's threads spin while they wait for each other, which is very slow where
    # another program uses one of the cores. Sleeping costs little. OpenMP reads this setting when
    # torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
