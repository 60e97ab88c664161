"""Many results as one archive that is made while it is sent."""

from __future__ import annotations

import asyncio
import io
import zipfile
from pathlib import Path
from typing import Any, cast

import pytest

pytest.importorskip("fastapi", reason="the extra ui is not installed")

from dehaze.photos import PhotoError
from dehaze.webui.dehazing import Dehazed, Settings
from dehaze.webui.engine import BusyError
from dehaze.webui.export import FAILURES_NAME, NOTES_NAME, Export, archive_names
from dehaze.webui.workspace import Held


def held(name: str) -> Held:
    return Held(name, name, Path(name), is_copy=False)


class Dehaze:
    """Writes each photo's name, and fails for those that are called bad."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.busy = 1

    async def __call__(self, photo: Held, settings: Settings) -> Dehazed:
        if self.busy:
            self.busy -= 1
            raise BusyError("full")
        if photo.name.startswith("bad"):
            raise PhotoError(photo.path, "is cut short", "copy it again")
        path = self.folder / "made"
        path.write_bytes(photo.name.encode() * 500_000)
        notes = ("its comment is lost",) if photo.name.startswith("noted") else ()
        return Dehazed(path, "image/jpeg", notes, cast(Any, None))


def stream(export: Export, dehaze: Dehaze) -> list[bytes]:
    async def collect() -> list[bytes]:
        return [block async for block in export.stream(dehaze)]

    return asyncio.run(collect())


def test_the_archive_is_whole_and_names_what_failed(tmp_path: Path) -> None:
    names = ["a.jpg", "bad.jpg", "a.jpg"]
    export = Export([(held(name), Settings()) for name in names])
    blocks = stream(export, Dehaze(tmp_path))
    assert len(blocks) > 4
    with zipfile.ZipFile(io.BytesIO(b"".join(blocks))) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["a.jpg", "a (2).jpg", FAILURES_NAME]
        assert archive.read("a (2).jpg") == b"a.jpg" * 500_000
        assert archive.read(FAILURES_NAME) == b"bad.jpg: is cut short; copy it again\n"
    progress = export.progress()
    assert (progress["done"], progress["total"], progress["finished"]) == (2, 3, True)
    assert progress["seconds_left"] == 0
    assert not list(tmp_path.iterdir())


def test_notes_lie_in_the_archive_and_are_told(tmp_path: Path) -> None:
    export = Export([(held(name), Settings()) for name in ("a.jpg", "noted.jpg", "noted.jpg")])
    blocks = stream(export, Dehaze(tmp_path))
    notes = ["noted.jpg: its comment is lost", "noted (2).jpg: its comment is lost"]
    with zipfile.ZipFile(io.BytesIO(b"".join(blocks))) as archive:
        assert archive.namelist() == ["a.jpg", "noted.jpg", "noted (2).jpg", NOTES_NAME]
        assert archive.read(NOTES_NAME).decode().splitlines() == notes
    assert export.progress()["notes"] == notes


def test_a_download_that_is_broken_off_says_so(tmp_path: Path) -> None:
    export = Export([(held(name), Settings()) for name in ("a.jpg", "b.jpg")])

    async def first_block() -> None:
        blocks = cast(Any, export.stream(Dehaze(tmp_path)))
        await blocks.__anext__()
        await blocks.aclose()

    asyncio.run(first_block())
    assert export.progress()["stopped"]
    assert not export.progress()["finished"]


def test_names_that_differ_in_case_alone_stay_apart() -> None:
    names = archive_names(["a.jpg", "A.JPG", "a (2).jpg", "not done.TXT", "a.jpg"])
    assert len({name.lower() for name in (*names, FAILURES_NAME)}) == 6
