"""What the page and the API of the server share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from dehaze.errors import DehazeError
from dehaze.photos import MAX_MEGAPIXELS, PhotoError
from dehaze.pipelines.dehaze import DehazePipeline
from dehaze.webui.dehazing import Dehazed, Previews, Settings, SettingsError, dehaze_file
from dehaze.webui.engine import BusyError, ClosedError, Engine, Urgency
from dehaze.webui.guard import BodyTooLongError, too_long
from dehaze.webui.workspace import FullError, UnknownError, Workspace

Result = TypeVar("Result")

RETRY_AFTER_SECONDS = 2
# How often it is looked whether a client still waits.
_LOOK_SECONDS = 0.5

logger = logging.getLogger(__name__)


class BodyError(DehazeError, ValueError):
    """The body of a request is not a photo's file; the message says what to send."""


@dataclass(frozen=True)
class Limits:
    """How much is accepted.

    Attributes:
        max_bytes: of one photo's file.
        max_megapixels: of one photo.
    """

    max_bytes: int = 200_000_000
    max_megapixels: float = MAX_MEGAPIXELS


@dataclass(frozen=True)
class Service:
    """The parts of a running server.

    Attributes:
        engine: does the work.
        workspace: the photos of the page.
        previews: what was looked at last.
        limits: how much is accepted.
        model: what the model is called.
        may_name_folders: the page may read folders of this machine.
    """

    engine: Engine
    workspace: Workspace
    previews: Previews
    limits: Limits
    model: str = "bundled"
    may_name_folders: bool = False

    async def run(
        self,
        work: Callable[[DehazePipeline], Result],
        urgency: Urgency = Urgency.IN_A_ROW,
    ) -> Result:
        """Have work done, and wait for it; work not yet begun is dropped if the wait is cancelled.

        Raises:
            BusyError, ClosedError: as ``Engine.submit``.
        """
        return await self._wait(self.engine.submit(work, urgency))

    async def _wait(self, future: Future[Result]) -> Result:
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if future.cancelled() and not _is_leaving():
                raise ClosedError("the server is being stopped; try again later") from None
            raise

    async def dehaze(self, source: Path, settings: Settings, name: str = "") -> Dehazed:
        """A photo's file without its haze; the caller deletes it.

        Args:
            source: the photo.
            settings: how it is dehazed.
            name: what the photo is called, whose suffix the file gets.

        Raises:
            BusyError, ClosedError: as ``Engine.submit``.
            SettingsError, PhotoError: as ``dehaze_file``.
        """
        target = self.workspace.new_file(name)
        limit = self.limits.max_megapixels
        future = self.engine.submit(
            lambda pipeline: dehaze_file(pipeline, source, target, settings, max_megapixels=limit)
        )
        try:
            return await self._wait(future)
        except BaseException:
            # Work that was begun goes on, and writes the file at its end.
            future.add_done_callback(lambda _: target.unlink(missing_ok=True))
            raise

    async def receive(self, request: Request, name: str = "") -> Path:
        """The body of a request as a file.

        Raises:
            BodyTooLongError: it is longer than it may be.
            PhotoError: it is empty.
        """
        path = self.workspace.new_file(name)
        try:
            with open(path, "xb") as file:
                async for block in request.stream():
                    await asyncio.to_thread(file.write, block)
                length = file.tell()
            if not length:
                raise PhotoError(name or "photo", "is empty (0 bytes)", "send a photo's bytes")
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path


async def unless_left(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """What the work gives; it is cancelled where nobody waits for the answer any more.

    Args:
        request: its body was received.
        work: for the answer.

    Raises:
        ClientDisconnect: the client has gone.
    """
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=_LOOK_SECONDS))[0]:
            if await request.is_disconnected():
                raise ClientDisconnect
    except BaseException:
        task.cancel()
        await asyncio.wait({task})
        raise
    return task.result()


def _is_leaving() -> bool:
    """Whether the waiting task was cancelled, not the work."""
    task = asyncio.current_task()
    return task is not None and getattr(task, "cancelling", lambda: 0)() > 0


_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (SettingsError, 400),
    (UnknownError, 404),
    (BodyError, 415),
    (FullError, 409),
    (PhotoError, 422),
    (BusyError, 503),
    (ClosedError, 503),
)


def answer_errors(app: FastAPI, limits: Limits) -> None:
    """Every error becomes JSON with the cause and the cure, in words."""

    async def known(request: Request, error: Exception) -> JSONResponse:
        status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == 503 else {}
        return JSONResponse(in_words(error), status, headers)

    async def body_too_long(request: Request, error: Exception) -> JSONResponse:
        status, cause, cure = too_long(limits.max_bytes)
        return JSONResponse({"error": cause, "cure": cure}, status, {"Connection": "close"})

    async def wrong_request(request: Request, error: Exception) -> JSONResponse:
        problems = list(error.errors()) if isinstance(error, RequestValidationError) else []
        causes = [f"{problem['loc'][-1]}: {problem['msg'].lower()}" for problem in problems]
        content = {"error": "; ".join(causes), "cure": "see /docs for what is accepted"}
        return JSONResponse(content, 400)

    async def http_error(request: Request, error: Exception) -> JSONResponse:
        status = error.status_code if isinstance(error, HTTPException) else 500
        cause = str(error.detail) if isinstance(error, HTTPException) else "unknown"
        return JSONResponse({"error": cause, "cure": "see /docs for what there is"}, status)

    async def left(request: Request, error: Exception) -> Response:
        # Nobody reads this; the status is nginx's, for its log.
        return Response(status_code=499)

    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return JSONResponse(in_words(error), 500)

    app.add_exception_handler(DehazeError, known)
    app.add_exception_handler(BodyTooLongError, body_too_long)
    app.add_exception_handler(RequestValidationError, wrong_request)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(ClientDisconnect, left)
    app.add_exception_handler(Exception, unexpected)


def in_words(error: Exception) -> dict[str, str]:
    """An error as cause and cure, without paths of this machine."""
    if isinstance(error, PhotoError):
        return {"error": error.cause, "cure": error.cure}
    if isinstance(error, DehazeError):
        return {"error": str(error), "cure": ""}
    if isinstance(error, MemoryError):
        return {"error": "does not fit in memory", "cure": "make the photo smaller"}
    return {
        "error": f"something unforeseen went wrong ({type(error).__name__})",
        "cure": "the server's terminal says more",
    }
