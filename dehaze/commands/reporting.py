"""The output of commands: messages, streams, and the meaning of -q and -v."""

from __future__ import annotations

import errno
import io
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from enum import IntEnum
from pathlib import Path
from typing import Any

import click

from dehaze.commands.logfile import logging_to, said
from dehaze.errors import DehazeError, first_line, reason

INTERRUPTED = 130
_KEY = "dehaze.verbosity"


class CommandError(click.ClickException):
    """The command cannot start: one line on stderr, cause and cure, and exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        problem(self.format_message())


class UnexpectedError(CommandError):
    """A fault of the program itself: one line on stderr, and exit code 1."""

    exit_code = 1


class Verbosity(IntEnum):
    """How much a command says."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2


def verbosity() -> Verbosity:
    """The verbosity of the command that is running."""
    context = click.get_current_context(silent=True)
    return Verbosity.NORMAL if context is None else context.meta.get(_KEY, Verbosity.NORMAL)


def result(text: str) -> None:
    """Say on stdout what the command was asked for; nothing with -q."""
    said.info("%s", text)
    if verbosity() > Verbosity.QUIET:
        _write(text, err=False)


def note(text: str) -> None:
    """Print a note on stderr; nothing with -q."""
    said.info("%s", text)
    if verbosity() > Verbosity.QUIET:
        _warn(text)


def note_empty(flag: str, prompt: str | None) -> None:
    """Say that a prompt is empty: models take it, and a script's unset variable makes it, too."""
    if prompt is not None and not prompt.strip():
        note(f"{flag} is empty: the model is told nothing of what the picture shows")


def detail(text: str) -> None:
    """Say on stderr what only a closer look needs; with -v alone."""
    said.debug("%s", text)
    if verbosity() is Verbosity.VERBOSE:
        _warn(text)


def problem(text: str) -> None:
    """Say on stderr what went wrong, at any verbosity."""
    said.error("%s", text)
    _warn(text)


def _warn(text: str) -> None:
    _write(f"dehaze: {text}", err=True)


def _write(text: str, *, err: bool) -> None:
    # A progress bar, where there is one, is cleared for the line and drawn again below it.
    bars = sys.modules.get("tqdm")
    with nullcontext() if bars is None else bars.tqdm.external_write_mode(file=sys.stderr):
        click.echo(text, err=err)


class _Log(logging.Handler):
    """Writes the library's log as the commands write."""

    def emit(self, record: logging.LogRecord) -> None:
        _warn(record.getMessage())


_LEVELS = {
    Verbosity.QUIET: logging.ERROR,
    Verbosity.NORMAL: logging.WARNING,
    Verbosity.VERBOSE: logging.INFO,
}


@contextmanager
def speaking(context: click.Context, level: Verbosity, log_file: Path | None) -> Iterator[None]:
    """Run a command at a verbosity: what the library logs is said, and every error is one line.

    What a user can put right is a ``DehazeError`` or an error of the system, and ends with exit
    code 2. Anything else is a fault of the program: exit code 1, and with -v its traceback. All
    that is said goes to the log file as well, if there is one.
    """
    context.meta[_KEY] = level
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that it cannot show is escaped, as it is on stderr.
        sys.stdout.reconfigure(errors="backslashreplace")
    logger, log = logging.getLogger("dehaze"), _Log(_LEVELS[level])
    before = logger.level
    logger.addHandler(log)
    logger.setLevel(logging.DEBUG if log_file is not None else _LEVELS[level])
    try:
        with logging_to(log_file), _errors_in_one_line(context, level):
            yield
    finally:
        logger.removeHandler(log)
        logger.setLevel(before)


@contextmanager
def _errors_in_one_line(context: click.Context, level: Verbosity) -> Iterator[None]:
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except DehazeError as error:
        raise CommandError(str(error)) from error
    except KeyboardInterrupt:
        problem("interrupted")
        context.exit(INTERRUPTED)
    except OSError as error:
        # A reader such as head closes the pipe when it has seen enough; click then ends quietly.
        if error.errno == errno.EPIPE:
            raise
        raise CommandError(
            f"{error.filename or 'a file'}: cannot be read or written ({reason(error)}); "
            "check the name, its permissions and the room on the disk"
        ) from error
    except Exception as error:
        if level is Verbosity.VERBOSE:
            raise
        raise UnexpectedError(
            f"unexpected {type(error).__name__} ({first_line(error)}); run it again with -v and "
            "report what it prints: this is a fault of dehaze"
        ) from error


def quiet_photo_libraries() -> None:
    """Keep photo libraries' own messages off the terminal; the commands name what is wrong."""
    import cv2

    warnings.simplefilter("ignore")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def quiet_libraries() -> None:
    """Keep the libraries' warnings, logs and loading bars off the terminal; downloads still show.

    The commands say themselves what a user has to know.
    """
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import enable_progress_bars  # type: ignore[attr-defined]
    from transformers.utils import logging as transformers_logging

    quiet_photo_libraries()
    for library_logging in (diffusers_logging, transformers_logging):
        library_logging.set_verbosity_error()
        library_logging.disable_progress_bar()
    enable_progress_bars()
