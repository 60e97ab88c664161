"""Work for a client is dropped when the client has left."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

pytest.importorskip("fastapi", reason="the extra ui is not installed")

from starlette.requests import ClientDisconnect, Request

from dehaze.webui import service as module
from dehaze.webui.service import unless_left


class Client:
    """A request whose client leaves, or waits."""

    def __init__(self, *, left: bool) -> None:
        self.left = left

    async def is_disconnected(self) -> bool:
        return self.left


@pytest.mark.parametrize("left", [False, True])
def test_work_is_dropped_when_its_client_has_left(
    left: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.01)
    ended: list[str] = []

    async def work() -> str:
        try:
            await asyncio.sleep(60 if left else 0.05)
        except asyncio.CancelledError:
            ended.append("given up")
            raise
        ended.append("done")
        return "a photo"

    waiting = unless_left(cast(Request, cast(Any, Client(left=left))), work())
    if left:
        with pytest.raises(ClientDisconnect):
            asyncio.run(waiting)
    else:
        assert asyncio.run(waiting) == "a photo"
    assert ended == ["given up" if left else "done"]
