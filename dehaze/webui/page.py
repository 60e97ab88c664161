"""The page: its files, and the addresses it talks to."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, unquote

from fastapi import APIRouter, FastAPI, Header, Request, Response
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, StreamingResponse

from dehaze import __version__
from dehaze.batch import PlanError, plan
from dehaze.photos import PHOTO_SUFFIXES, PhotoError
from dehaze.report import asset
from dehaze.webui.api import Exposure, Strength, Word
from dehaze.webui.dehazing import Dehazed, Preview, Settings, open_preview
from dehaze.webui.engine import Urgency
from dehaze.webui.export import Export, Exports
from dehaze.webui.service import Service
from dehaze.webui.workspace import MAX_PHOTOS, Held, UnknownError

_FILES = {
    "": ("index.html", "text/html; charset=utf-8"),
    "docs": ("docs.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "docs.js": ("docs.js", "text/javascript; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
# What page and report have in common.
_SHARED = {
    "compare.css": "text/css; charset=utf-8",
    "compare.js": "text/javascript; charset=utf-8",
}


class Tab(BaseModel):
    """What a tab needs to know about the server."""

    tab: str
    version: str
    model: str
    word: str
    suffixes: list[str]
    max_bytes: int
    may_name_folders: bool


class Opened(BaseModel):
    """A photo that was added."""

    key: str
    name: str


class FolderWish(BaseModel):
    """A folder of this machine, by its path."""

    path: str = Field(min_length=1, max_length=4000)


class PhotoWish(BaseModel):
    """A photo, and how it shall be dehazed."""

    key: str
    strength: float = 1.0
    exposure: float = 0.0
    word: str | None = Field(None, max_length=100)

    def settings(self) -> Settings:
        """How it shall be dehazed; checked when its turn comes."""
        return Settings(self.strength, self.exposure, self.word or None)


class ExportWish(BaseModel):
    """Photos to be put into one archive."""

    photos: list[PhotoWish] = Field(min_length=1, max_length=MAX_PHOTOS)


def add_files(app: FastAPI, names: list[str]) -> None:
    """Serve some of the page's own files: an address is a key of a table, never a path."""
    for name in names:
        if name in _SHARED:
            content, media_type = asset(name), _SHARED[name]
        else:
            file, media_type = _FILES[name]
            content = (resources.files("dehaze.webui") / "static" / file).read_text("utf-8")
        _add_file(app, f"/{name}", content, media_type)


def _add_file(app: FastAPI, address: str, content: str, media_type: str) -> None:
    async def file() -> Response:
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})

    app.add_api_route(address, file, include_in_schema=False)


def add_page(app: FastAPI, service: Service, *, model_word: str) -> None:
    """Add the page and what it needs to an application."""
    add_files(app, ["", "page.css", "page.js", "compare.css", "compare.js", "icon.svg"])
    router = APIRouter(prefix="/page", include_in_schema=False)
    exports = Exports()

    def preview_of(held: Held) -> Preview:
        limit = service.limits.max_megapixels
        return service.previews.get(held.key, lambda: open_preview(held.path, max_megapixels=limit))

    @router.post("/tabs")
    async def open_tab() -> Tab:
        return Tab(
            tab=service.workspace.open_tab(),
            version=__version__,
            model=service.model,
            word=model_word,
            suffixes=sorted(PHOTO_SUFFIXES),
            max_bytes=service.limits.max_bytes,
            may_name_folders=service.may_name_folders,
        )

    @router.post("/tabs/{tab}/close")
    async def close_tab(tab: str) -> Response:
        for key in service.workspace.close_tab(tab):
            service.previews.drop(key)
        return Response(status_code=204)

    @router.post("/tabs/{tab}/photos")
    async def add_photo(
        tab: str, request: Request, photo_name: Annotated[str, Header(max_length=2000)] = "photo"
    ) -> Opened:
        name = unquote(photo_name)
        path = await service.receive(request, name)
        try:
            held = service.workspace.add(tab, name, path, is_copy=True)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return Opened(key=held.key, name=held.name)

    @router.post("/tabs/{tab}/folder")
    async def add_folder(tab: str, wish: FolderWish) -> list[Opened]:
        if not service.may_name_folders:
            raise UnknownError("folders can be named only on the machine that the server runs on")
        paths = await asyncio.to_thread(_photos_in, wish.path)
        return [
            Opened(key=held.key, name=held.name)
            for held in (
                service.workspace.add(tab, path.name, path, is_copy=False) for path in paths
            )
        ]

    @router.post("/tabs/{tab}/photos/{key}/remove")
    async def remove(tab: str, key: str) -> Response:
        service.workspace.remove(tab, key)
        service.previews.drop(key)
        return Response(status_code=204)

    @router.get("/tabs/{tab}/photos/{key}/photo")
    async def photo(tab: str, key: str) -> Response:
        held = service.workspace.get(tab, key)
        picture = await asyncio.to_thread(lambda: preview_of(held).photo())
        return Response(picture, media_type="image/jpeg", headers=_PRIVATE)

    @router.get("/tabs/{tab}/photos/{key}/seen/{layer}")
    async def see(
        tab: str,
        key: str,
        layer: str,
        strength: Strength = 1.0,
        exposure: Exposure = 0.0,
        word: Word = None,
        urgent: bool = False,
    ) -> Response:
        held = service.workspace.get(tab, key)
        settings = Settings(strength, exposure, word or None)
        seen = await service.run(
            lambda pipeline: preview_of(held).see(pipeline, settings, layer),
            Urgency.UNDER_THE_HAND if urgent else Urgency.IN_A_ROW,
        )
        numbers = {"Dehaze-Density": seen.density, "Dehaze-Lightness": seen.lightness}
        headers = {name: f"{value:.4f}" for name, value in numbers.items() if value is not None}
        return Response(seen.picture, media_type="image/jpeg", headers=_PRIVATE | headers)

    async def dehaze(held: Held, settings: Settings) -> Dehazed:
        return await service.dehaze(held.path, settings, held.name)

    @router.get("/tabs/{tab}/photos/{key}/file")
    async def download(
        tab: str,
        key: str,
        strength: Strength = 1.0,
        exposure: Exposure = 0.0,
        word: Word = None,
    ) -> Response:
        held = service.workspace.get(tab, key)
        done = await dehaze(held, Settings(strength, exposure, word or None))
        return FileResponse(
            done.path,
            media_type=done.media_type,
            headers=_PRIVATE | {"Content-Disposition": _attachment(held.name)},
            background=BackgroundTask(done.path.unlink, missing_ok=True),
        )

    @router.post("/tabs/{tab}/exports")
    async def plan_export(tab: str, wish: ExportWish) -> dict[str, str]:
        photos = [
            (service.workspace.get(tab, photo.key), photo.settings()) for photo in wish.photos
        ]
        return {"key": exports.add(tab, Export(photos))}

    @router.get("/tabs/{tab}/exports/{key}")
    async def progress(tab: str, key: str) -> dict[str, Any]:
        return exports.get(tab, key).progress()

    @router.get("/tabs/{tab}/exports/{key}/dehazed.zip")
    async def archive(tab: str, key: str) -> Response:
        blocks: AsyncIterator[bytes] = exports.get(tab, key).stream(dehaze)
        return StreamingResponse(
            blocks,
            media_type="application/zip",
            headers=_PRIVATE | {"Content-Disposition": _attachment("dehazed.zip")},
        )

    app.include_router(router)


_PRIVATE = {"Cache-Control": "no-store"}


def _attachment(name: str) -> str:
    """A Content-Disposition that keeps the name, whatever its letters (RFC 6266)."""
    return f"attachment; filename*=UTF-8''{quote(name, safe='')}"


def _photos_in(folder: str) -> list[Path]:
    """The photos of a folder of this machine, to the bottom, as ``dehaze run`` finds them.

    Raises:
        PhotoError: there is no such folder, or no photo in it.
    """
    path = Path(os.path.expanduser(folder.strip()))
    if not path.is_dir():
        raise PhotoError(path, f"there is no folder {str(path)!r}", "check the name")
    try:
        # Nothing is written, but the plan needs an output that lies elsewhere.
        found = plan([path], path / ".dehaze-nowhere")
    except PlanError as error:
        raise PhotoError(path, str(error), "name another folder") from error
    if not found.photos:
        raise PhotoError(path, f"there is no photo in {str(path)!r}", "name another folder")
    return [photo.source for photo in found.photos]
