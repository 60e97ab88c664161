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
    app.include_router(_Page(service, model_word).router())


class _Page:
    """What the page asks of the server.

    Args:
        service: dehazes photos.
        model_word: the word that the model removes by default.
    """

    def __init__(self, service: Service, model_word: str) -> None:
        self._service = service
        self._model_word = model_word
        self._exports = Exports()

    def router(self) -> APIRouter:
        """The page's addresses."""
        router = APIRouter(prefix="/page", include_in_schema=False)
        router.post("/tabs")(self.open_tab)
        router.post("/tabs/{tab}/close")(self.close_tab)
        router.post("/tabs/{tab}/photos")(self.add_photo)
        router.post("/tabs/{tab}/folder")(self.add_folder)
        router.post("/tabs/{tab}/photos/{key}/remove")(self.remove)
        router.get("/tabs/{tab}/photos/{key}/photo")(self.photo)
        router.get("/tabs/{tab}/photos/{key}/seen/{layer}")(self.see)
        router.get("/tabs/{tab}/photos/{key}/file")(self.download)
        router.post("/tabs/{tab}/exports")(self.plan_export)
        router.get("/tabs/{tab}/exports/{key}")(self.progress)
        router.get("/tabs/{tab}/exports/{key}/dehazed.zip")(self.archive)
        return router

    async def open_tab(self) -> Tab:
        """Open a tab without photos."""
        return Tab(
            tab=self._service.workspace.open_tab(),
            version=__version__,
            model=self._service.model,
            word=self._model_word,
            suffixes=sorted(PHOTO_SUFFIXES),
            max_bytes=self._service.limits.max_bytes,
            may_name_folders=self._service.may_name_folders,
        )

    async def close_tab(self, tab: str) -> Response:
        """Forget a tab and its photos."""
        for key in self._service.workspace.close_tab(tab):
            self._service.previews.drop(key)
        return Response(status_code=204)

    async def add_photo(
        self,
        tab: str,
        request: Request,
        photo_name: Annotated[str, Header(max_length=2000)] = "photo",
    ) -> Opened:
        """Add a photo that is sent as the request's body."""
        name = unquote(photo_name)
        path = await self._service.receive(request, name)
        try:
            held = self._service.workspace.add(tab, name, path, is_copy=True)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return Opened(key=held.key, name=held.name)

    async def add_folder(self, tab: str, wish: FolderWish) -> list[Opened]:
        """Add the photos of a folder of this machine."""
        if not self._service.may_name_folders:
            raise UnknownError("folders can be named only on the machine that the server runs on")
        paths = await asyncio.to_thread(_photos_in, wish.path)
        added = (self._service.workspace.add(tab, path.name, path, is_copy=False) for path in paths)
        return [Opened(key=held.key, name=held.name) for held in added]

    async def remove(self, tab: str, key: str) -> Response:
        """Forget a photo."""
        self._service.workspace.remove(tab, key)
        self._service.previews.drop(key)
        return Response(status_code=204)

    async def photo(self, tab: str, key: str) -> Response:
        """The photo as it is, small, as JPEG."""
        held = self._service.workspace.get(tab, key)
        picture = await asyncio.to_thread(lambda: self._preview_of(held).photo())
        return Response(picture, media_type="image/jpeg", headers=_PRIVATE)

    async def see(
        self,
        tab: str,
        key: str,
        layer: str,
        strength: Strength = 1.0,
        exposure: Exposure = 0.0,
        word: Word = None,
        urgent: bool = False,
    ) -> Response:
        """One layer of a photo's result, small, as JPEG."""
        held = self._service.workspace.get(tab, key)
        settings = Settings(strength, exposure, word or None)
        seen = await self._service.run(
            lambda pipeline: self._preview_of(held).see(pipeline, settings, layer),
            Urgency.UNDER_THE_HAND if urgent else Urgency.IN_A_ROW,
        )
        numbers = {"Dehaze-Density": seen.density, "Dehaze-Lightness": seen.lightness}
        headers = {name: f"{value:.4f}" for name, value in numbers.items() if value is not None}
        return Response(seen.picture, media_type="image/jpeg", headers=_PRIVATE | headers)

    async def download(
        self,
        tab: str,
        key: str,
        strength: Strength = 1.0,
        exposure: Exposure = 0.0,
        word: Word = None,
    ) -> Response:
        """A photo's result at its own size, as a file."""
        held = self._service.workspace.get(tab, key)
        done = await self._dehaze(held, Settings(strength, exposure, word or None))
        return FileResponse(
            done.path,
            media_type=done.media_type,
            headers=_PRIVATE | done.headers() | {"Content-Disposition": _attachment(held.name)},
            background=BackgroundTask(done.path.unlink, missing_ok=True),
        )

    async def plan_export(self, tab: str, wish: ExportWish) -> dict[str, str]:
        """Say which photos an archive will hold."""
        photos = [
            (self._service.workspace.get(tab, photo.key), photo.settings()) for photo in wish.photos
        ]
        return {"key": self._exports.add(tab, Export(photos))}

    async def progress(self, tab: str, key: str) -> dict[str, Any]:
        """How far an archive is."""
        return self._exports.get(tab, key).progress()

    async def archive(self, tab: str, key: str) -> Response:
        """The archive, made while it is sent."""
        blocks: AsyncIterator[bytes] = self._exports.get(tab, key).stream(self._dehaze)
        return StreamingResponse(
            blocks,
            media_type="application/zip",
            headers=_PRIVATE | {"Content-Disposition": _attachment("dehazed.zip")},
        )

    def _preview_of(self, held: Held) -> Preview:
        limit = self._service.limits.max_megapixels
        # A folder's photo may have changed since, and its download would be of the new one.
        try:
            status = held.path.stat()
        except OSError as error:
            raise PhotoError(held.path, "is gone", "add it again") from error
        return self._service.previews.get(
            held.key,
            lambda: open_preview(held.path, max_megapixels=limit),
            version=(status.st_mtime_ns, status.st_size),
        )

    async def _dehaze(self, held: Held, settings: Settings) -> Dehazed:
        return await self._service.dehaze(held.path, settings, held.name)


_PRIVATE = {"Cache-Control": "no-store"}


def _attachment(name: str) -> str:
    """A Content-Disposition that keeps the name, whatever its letters (RFC 6266)."""
    return f"attachment; filename*=UTF-8''{quote(name, safe='')}"


def _photos_in(folder: str) -> list[Path]:
    """The photos of a folder of this machine, to the bottom, as ``dehaze run`` finds them.

    Raises:
        PhotoError: there is no such folder, no photo in it, or a part of it cannot be listed.
    """
    path = Path(os.path.expanduser(folder.strip()))
    if not path.is_dir():
        raise PhotoError(path, f"there is no folder {str(path)!r}", "check the name")
    try:
        # Nothing is written, but the plan needs an output that lies elsewhere.
        found = plan([path], path / ".dehaze-nowhere")
    except PlanError as error:
        raise PhotoError(path, str(error), "name another folder") from error
    if found.unreadable:
        raise found.unreadable[0]
    if not found.photos:
        raise PhotoError(path, f"there is no photo in {str(path)!r}", "name another folder")
    return [photo.source for photo in found.photos]
