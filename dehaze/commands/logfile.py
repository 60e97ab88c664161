"""``--log-file``: all messages of a command and the library's log, with the time, in a file."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from dehaze import __version__
from dehaze.errors import reason

# All messages of commands go to the file, at every verbosity. They have a logger of their own, so
# that none is printed twice.
said = logging.getLogger("dehaze-commands")
said.propagate = False
said.setLevel(logging.DEBUG)
said.addHandler(logging.NullHandler())

_LINE = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ ")


@contextmanager
def logging_to(path: Path | None) -> Iterator[None]:
    """Inside, messages and log records are appended to a file; without a path nothing happens.

    Raises:
        click.BadParameter: the file cannot be written, or holds something else than a log.
    """
    if path is None:
        yield
        return
    _refuse_strange_file(path)
    try:
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise click.BadParameter(
            f"{path} cannot be written ({reason(error)}); name another file.",
            param_hint="--log-file",
        ) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    loggers = (said, logging.getLogger("dehaze"))
    for logger in loggers:
        logger.addHandler(handler)
    try:
        said.info("dehaze %s: %s", __version__, " ".join(sys.argv))
        yield
    except click.exceptions.Exit as end:
        said.info("ended with exit code %d", end.exit_code)
        raise
    except click.ClickException as error:
        said.error("%s", error.format_message(), exc_info=error.__cause__)
        said.info("ended with exit code %d", error.exit_code)
        raise
    except BrokenPipeError:
        said.info("ended early: the reader of its output has seen enough")
        raise
    except Exception:
        said.exception("a fault of dehaze")
        raise
    else:
        said.info("ended with exit code 0")
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()


def _refuse_strange_file(path: Path) -> None:
    """Refuses a file that is no log: a photo named by mistake must not get lines at its end."""
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError:
        # A missing file is fine; other errors are named when it is written.
        return
    if start and not _LINE.match(start):
        raise click.BadParameter(
            f"{path} exists and is not a log of dehaze; name another file.",
            param_hint="--log-file",
        )
