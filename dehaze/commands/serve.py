"""``dehaze serve``: an HTTP API for other programs."""

from __future__ import annotations

from typing import Any

import click

from dehaze.commands.command import Command
from dehaze.commands.serving import run_server, serving_options


@click.command(cls=Command)
@serving_options(port=8000)
def serve(**chosen: Any) -> None:
    """Answer other programs over HTTP: post a photo, get it back without its haze.

    \b
      curl --data-binary @a.jpg http://127.0.0.1:8000/v1/dehaze -o b.jpg
      POST /v1/dehaze       a photo in, a photo out; ?strength=0.8&word=fog
      POST /v1/dehaze/json  with maps, airlight and density
      GET  /health          whether it is ready, and how many wait
      GET  /docs            the documentation; /openapi.json is for programs

    Exit code: 0, stopped by Ctrl-C or SIGTERM; 2, it could not start.
    """
    run_server("the API", with_page=False, **chosen)
