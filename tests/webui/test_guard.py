"""Requests that are allowed and refused: host names, origins, lengths."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dehaze.webui.guard import BodyTooLongError, Guard


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def ask(headers: dict[str, str], blocks: tuple[bytes, ...] = (b"",), **options: Any) -> Any:
    """Status and headers of the answer."""
    sent: list[dict[str, Any]] = []
    waiting = [
        {"type": "http.request", "body": block, "more_body": index < len(blocks) - 1}
        for index, block in enumerate(blocks)
    ]

    async def receive() -> dict[str, Any]:
        return waiting.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    guard = Guard(echo, **({"max_bytes": 10} | options))
    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"])


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:7860", "127.0.0.1:80", "127.0.0.2", "[::1]:7860", "LOCALHOST"]
)
def test_requests_from_this_machine_are_allowed(host: str) -> None:
    assert ask({"host": host})[0] == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "10.0.0.5", "[::1"],
)
def test_other_host_names_are_refused(host: str) -> None:
    assert ask({"host": host})[0] == 421


def test_allowed_names_and_addresses_are_served() -> None:
    assert ask({"host": "photos.example:80"}, hosts=("Photos.example",))[0] == 200
    assert ask({"host": "10.0.0.5:80"}, any_address=True)[0] == 200
    assert ask({"host": "evil.example"}, any_address=True)[0] == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://localhost:1"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_pages_of_other_sites_are_refused(headers: dict[str, str]) -> None:
    assert ask({"host": "localhost:7860"} | headers)[0] == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://localhost:7860", "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
    ],
)
def test_requests_of_its_own_page_are_allowed(headers: dict[str, str]) -> None:
    assert ask({"host": "localhost:7860"} | headers)[0] == 200


def test_a_long_body_is_refused_by_header_or_while_read() -> None:
    local = {"host": "localhost"}
    assert ask(local | {"content-length": "11"})[0] == 413
    assert ask(local | {"content-length": "x"})[0] == 400
    assert ask(local, (b"12345", b"67890"))[0] == 200
    with pytest.raises(BodyTooLongError):
        ask(local, (b"12345", b"67890", b"1"))


def test_every_answer_says_that_no_other_site_may_show_it() -> None:
    for headers in ({"host": "localhost"}, {"host": "evil.example"}):
        found = ask(headers)[1]
        assert found[b"x-frame-options"] == b"DENY"
        assert found[b"x-content-type-options"] == b"nosniff"
        assert b"default-src 'none'" in found[b"content-security-policy"]
