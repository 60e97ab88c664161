"""``dehaze ui``: a page on this machine that photos are dropped on."""

from __future__ import annotations

from typing import Any

import click

from dehaze.commands.command import Command, option
from dehaze.commands.serving import run_server, serving_options


@click.command(cls=Command)
@option("--open", "open_browser", is_flag=True, help="Open the page in the browser.")
@serving_options(port=7860)
def ui(open_browser: bool, **chosen: Any) -> None:
    """Open a page in the browser to drop photos on.

    The page compares each photo before and after with a slider, sets strength and exposure, shows
    the haze attention map and the transmission, and downloads one photo or all of them. Only this
    machine can open it, unless --host says otherwise. It loads nothing from elsewhere. The HTTP API
    of dehaze serve is there as well.

    Exit code: 0, stopped by Ctrl-C or SIGTERM; 2, it could not start.
    """

    def show(address: str) -> None:
        if open_browser:
            import webbrowser

            webbrowser.open(address)

    run_server("the page", with_page=True, ready=show, **chosen)
