"""Puts the parts together, and runs them until told to stop."""

from __future__ import annotations

import contextlib
import signal
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from dehaze import __version__
from dehaze.errors import DehazeError, reason
from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.webui.api import add_api
from dehaze.webui.dehazing import Previews
from dehaze.webui.engine import Engine
from dehaze.webui.guard import LOOPBACK_NAMES, Guard
from dehaze.webui.page import add_files, add_page
from dehaze.webui.service import Limits, Service, answer_errors
from dehaze.webui.workspace import Workspace

GRACE_SECONDS = 30
_MEMORY_FOR_PREVIEWS = 800_000_000


class AddressError(DehazeError, OSError):
    """The server cannot listen where it was told to."""


@dataclass(frozen=True)
class ServerSettings:
    """How a server runs.

    Attributes:
        host: the interface: 127.0.0.1 for this machine alone, 0.0.0.0 for all.
        port: 0 for any that is free.
        with_page: the page as well as the API.
        threads: photos that are done at a time.
        waiting: photos that may wait; more are refused.
        limits: of one photo.
        allowed_hosts: names that the server may be called by, besides loopback's.
        model: what the model is called.
    """

    host: str = "127.0.0.1"
    port: int = 0
    with_page: bool = True
    threads: int = 1
    waiting: int = 64
    limits: Limits = field(default_factory=Limits)
    allowed_hosts: tuple[str, ...] = ()
    model: str = "bundled"

    @property
    def is_local(self) -> bool:
        """Only this machine can reach the server."""
        return self.host in LOOPBACK_NAMES


def build_app(pipeline: DehazePipeline, folder: Path, settings: ServerSettings) -> Guard:
    """The application, guarded.

    Args:
        pipeline: the model, shared by all threads.
        folder: for uploads; deleted when the application ends.
        settings: how it runs.
    """
    service = Service(
        engine=Engine(pipeline, threads=settings.threads, waiting=settings.waiting),
        workspace=Workspace(folder),
        previews=Previews(_MEMORY_FOR_PREVIEWS),
        limits=settings.limits,
        model=settings.model,
        may_name_folders=settings.is_local,
    )

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.engine.close()
        service.workspace.clear()

    app = FastAPI(
        title="dehaze",
        version=__version__,
        description="Removes haze from photographs.",
        # Not the library's own pages, which fetch scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        # A client that follows no redirect would take the empty answer for a photo.
        redirect_slashes=False,
        lifespan=lifespan,
    )
    answer_errors(app, settings.limits)
    add_api(app, service)
    add_files(app, ["docs", "docs.js"])
    if settings.with_page:
        add_page(app, service, model_word=pipeline.default_word)
    else:
        add_files(app, ["page.css", "compare.css"])
    return Guard(
        app,
        hosts=settings.allowed_hosts,
        any_address=not settings.is_local,
        max_bytes=settings.limits.max_bytes,
    )


def listen(settings: ServerSettings) -> socket.socket:
    """A socket that listens where the settings say.

    Raises:
        AddressError: it cannot.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=256)
    except (OSError, OverflowError) as error:
        raise AddressError(
            f"cannot listen on {settings.host}, port {settings.port} ({reason(error)}); name "
            "another with --port, or --port 0 for any"
        ) from error


def serve(
    pipeline: DehazePipeline,
    listener: socket.socket,
    settings: ServerSettings,
    *,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGINT or SIGTERM; what was begun is finished, within ``GRACE_SECONDS``.

    Args:
        pipeline: the model.
        listener: from ``listen``.
        settings: how.
        ready: called once requests are answered.
    """
    folder = Path(tempfile.mkdtemp(prefix="dehaze-"))
    server = _Server(
        uvicorn.Config(
            build_app(pipeline, folder, settings),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        ),
        ready,
    )
    with listener, _signals_end_quietly():
        server.run(sockets=[listener])


class _Server(uvicorn.Server):
    """Says when it is ready."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


@contextlib.contextmanager
def _signals_end_quietly() -> Iterator[None]:
    """Ignores the signal that uvicorn raises again after it has stopped."""

    def stopped(number: int, frame: Any) -> None:
        pass

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stopped) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
