"""Common to ``dehaze ui`` and ``dehaze serve``: the options, and running the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from dehaze import ranges
from dehaze.commands import options
from dehaze.commands.command import MACHINE, Decorator, option, several
from dehaze.commands.param_types import Number
from dehaze.commands.reporting import CommandError, quiet_libraries, result

if TYPE_CHECKING:
    from dehaze.models.choice import ModelChoice

INSTALL = 'pip install "dehaze-diffusion[ui]"'


def _host_names(
    context: click.Context, parameter: click.Parameter, names: tuple[str, ...]
) -> tuple[str, ...]:
    for name in names:
        port = name.count(":") == 1 and name.rpartition(":")[2].isdigit()
        if port or "/" in name:
            raise click.BadParameter(
                f"{name!r} is no name alone; leave out http:// and the port.", context, parameter
            )
    return names


def serving_options(port: int) -> Decorator:
    """The options of a server, with the port that it has by itself."""
    return several(
        option(
            "--host",
            metavar="ADDRESS",
            default="127.0.0.1",
            show_default=True,
            help="Address to listen on: 127.0.0.1 is for this machine alone, 0.0.0.0 for everybody "
            "who can reach it; there is no password.",
        ),
        option(
            "--port",
            type=click.IntRange(0, 65535),
            metavar="N",
            default=port,
            show_default=True,
            help="Port to listen on; 0 takes a free one.",
        ),
        option(
            "--allow-host",
            "allowed_hosts",
            metavar="NAME",
            multiple=True,
            callback=_host_names,
            help="Another host name that requests may use, besides localhost; may be repeated.",
        ),
        option(
            "--max-upload",
            type=Number(ranges.MEGABYTES),
            metavar="MB",
            default=200.0,
            show_default=True,
            help="Refuse larger files.",
        ),
        options.max_megapixels(),
        option(
            "--threads",
            type=click.IntRange(1, 64),
            metavar="N",
            default=1,
            show_default=True,
            heading=MACHINE,
            help="Photos at a time; all share one model.",
        ),
        option(
            "--waiting",
            type=click.IntRange(1, 100_000),
            metavar="N",
            default=64,
            show_default=True,
            heading=MACHINE,
            help="Photos that may wait for their turn; further requests get status 503.",
        ),
        options.model(),
    )


def run_server(
    what: str,
    *,
    with_page: bool,
    model: ModelChoice,
    max_upload: float,
    max_megapixels: float,
    ready: Callable[[str], None] = lambda address: None,
    **chosen: Any,
) -> None:
    """Load the model, serve until stopped, and say so.

    Args:
        what: in words: "the page".
        with_page: the page as well as the API.
        model: which one.
        max_upload: of one file, in 10^6 bytes.
        max_megapixels: of one photo.
        ready: called with the address once requests are answered.
        chosen: further fields of ``ServerSettings``.

    Raises:
        CommandError: the extra is not installed.
        DehazeError: the model cannot be loaded, or the address is taken.
    """
    quiet_libraries()
    try:
        from dehaze.webui.server import ServerSettings, listen, serve
    except ModuleNotFoundError as error:
        raise CommandError(
            f"{what} needs {error.name}, which is not installed; {INSTALL}"
        ) from error
    from dehaze.pipelines.dehaze import DehazePipeline
    from dehaze.webui.service import Limits

    settings = ServerSettings(
        with_page=with_page,
        limits=Limits(int(max_upload * 1e6), max_megapixels),
        model=model.model,
        **chosen,
    )
    # Before the model is loaded, so that a taken port is found at once.
    listener = listen(settings)
    pipeline = model.load(DehazePipeline)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else shown}:{port}"

    def say() -> None:
        result(f"{what}: {address}  (Ctrl-C stops it)")
        ready(address)

    serve(pipeline, listener, settings, ready=say)
