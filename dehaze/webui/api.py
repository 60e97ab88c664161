"""The HTTP API: post a photo, get it back without its haze."""

from __future__ import annotations

import asyncio
import base64
import time
from dataclasses import fields
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask
from starlette.responses import FileResponse

from dehaze import __version__, ranges
from dehaze.webui.dehazing import Dehazed, Settings, SettingsError, png
from dehaze.webui.service import BodyError, Service, unless_left

Strength = Annotated[
    float,
    Query(
        ge=ranges.STRENGTH.low,
        le=ranges.STRENGTH.high,
        allow_inf_nan=False,
        description="How much of the haze is removed: 0 none, 1 all.",
    ),
]
Exposure = Annotated[
    float,
    Query(
        ge=ranges.EXPOSURE.low,
        le=ranges.EXPOSURE.high,
        allow_inf_nan=False,
        description="How far the result is lightened: 0 as the scene is, 1 as the photo is.",
    ),
]
Word = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=100,
        description="The word to remove: haze, fog, mist, smog or smoke.",
    ),
]


class Problem(BaseModel):
    """What went wrong, and what helps."""

    error: str = Field(description="The cause, in words.")
    cure: str = Field(description="What helps; may be empty.")


class Health(BaseModel):
    """How the server is."""

    status: str = Field(description='"ready".')
    version: str
    model: str
    waiting: int = Field(description="Photos that wait for the model.")
    running: int = Field(description="Photos that are being done.")


class Answer(BaseModel):
    """A photo without its haze, and what was learned on the way."""

    image: str = Field(description="The photo's file, base64.")
    media_type: str = Field(description="Of the image: image/jpeg, say.")
    attention: str = Field(
        description="Where the model attends to the word: grey PNG at the photo's size, base64, "
        "stretched to 0 .. 255."
    )
    transmission: str | None = Field(
        description="Share of the scene's light that reaches the camera: grey PNG at the photo's "
        "size, base64, 255 for all of it."
    )
    airlight: list[float] | None = Field(description="Colour of the haze: RGB in [0, 1].")
    density: float | None = Field(description="Mean of 1 - transmission, in [0, 1].")
    notes: list[str] = Field(description="What could not come back as it was.")
    seconds: float = Field(description="From the upload's end to the answer.")


_PHOTO_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A photo's file: JPEG, PNG, TIFF, WebP or BMP. Its content decides.",
        "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "A setting is wrong."},
    413: {"model": Problem, "description": "The photo's file is too long."},
    415: {"model": Problem, "description": "The body is a form, JSON or compressed."},
    422: {"model": Problem, "description": "The photo cannot be read."},
    503: {"model": Problem, "description": "Too many photos wait; try again after Retry-After."},
}


def add_api(app: FastAPI, service: Service) -> None:
    """Add the API's addresses to an application."""
    router = APIRouter()

    @router.post(
        "/v1/dehaze",
        response_class=Response,
        responses={
            200: {
                "description": "The photo in its own format, size, depth and metadata. The header "
                "Dehaze-Notes has a JSON list of sentences.",
                "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
            },
            **_PROBLEMS,
        },
        openapi_extra=_PHOTO_BODY,
        summary="A photo in, a photo out",
    )
    async def dehaze(
        request: Request, strength: Strength = 1.0, exposure: Exposure = 0.0, word: Word = None
    ) -> Response:
        done = await _dehaze(service, request, Settings(strength, exposure, word))
        return FileResponse(
            done.path,
            media_type=done.media_type,
            headers=done.headers(),
            background=BackgroundTask(done.path.unlink, missing_ok=True),
        )

    @router.post(
        "/v1/dehaze/json",
        responses=_PROBLEMS,
        openapi_extra=_PHOTO_BODY,
        summary="A photo in, a photo and its maps out",
    )
    async def dehaze_json(
        request: Request, strength: Strength = 1.0, exposure: Exposure = 0.0, word: Word = None
    ) -> Answer:
        started = time.perf_counter()
        done = await _dehaze(service, request, Settings(strength, exposure, word))
        try:
            return await asyncio.to_thread(_answer, done, started)
        finally:
            done.path.unlink(missing_ok=True)

    @router.get("/health", summary="Whether it is ready")
    async def health() -> Health:
        return Health(
            status="ready",
            version=__version__,
            model=service.model,
            waiting=service.engine.waiting,
            running=service.engine.running,
        )

    app.include_router(router)


async def _dehaze(service: Service, request: Request, settings: Settings) -> Dehazed:
    _check_parameters(request)
    _check_body(request)
    source = await service.receive(request)
    try:
        return await unless_left(request, service.dehaze(source, settings))
    finally:
        source.unlink(missing_ok=True)


def _check_parameters(request: Request) -> None:
    """Refuses a parameter that would be passed over: an unknown one, or one given twice.

    Raises:
        SettingsError: the message names it.
    """
    known = [each.name for each in fields(Settings)]
    seen: set[str] = set()
    for name, _ in request.query_params.multi_items():
        if name not in known:
            raise SettingsError(f"there is no parameter {name!r}: there are {', '.join(known)}")
        if name in seen:
            raise SettingsError(f"{name} is given twice: give it once")
        seen.add(name)


def _check_body(request: Request) -> None:
    """Refuses a body that is no photo's bytes: a form, JSON, or compressed.

    Raises:
        BodyError: the message says what to send instead.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # Not application/x-www-form-urlencoded, which curl says of any data.
    if kind == "application/json" or kind.startswith("multipart/"):
        raise BodyError(
            f"the body is {kind}: send the bytes of the photo's file alone (curl --data-binary "
            "@a.jpg), and settings in the address (?strength=0.8)"
        )
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise BodyError(f"the body is compressed ({coding}): send the photo's file as it is")


def _answer(done: Dehazed, started: float) -> Answer:
    result = done.result
    transmission, airlight = result.transmission, result.airlight
    return Answer(
        image=_base64(done.path.read_bytes()),
        media_type=done.media_type,
        attention=_base64(png(result.attention_normalised())),
        transmission=None if transmission is None else _base64(png(transmission)),
        airlight=None if airlight is None else [float(value) for value in airlight],
        density=None if transmission is None else 1.0 - float(transmission.mean()),
        notes=list(done.notes),
        seconds=time.perf_counter() - started,
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
