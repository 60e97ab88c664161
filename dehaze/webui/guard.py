"""What a request must satisfy before anything looks at it.

A server on 127.0.0.1 is open to every page that the same browser shows: a page of another site can
send requests to it, and a name that resolves to 127.0.0.1 makes that site's page the same origin.
So the Host must be a name of this machine, and requests that a browser sends for another site are
refused. Source of both: the Fetch standard's Origin and Sec-Fetch-Site headers; Jackson et al.,
"Protecting Browsers from DNS Rebinding Attacks", 2007.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from dehaze.errors import DehazeError

Scope = dict[str, Any]

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

_SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        b"connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
)


class Guard:
    """ASGI middleware: checks Host, Origin and length, and adds security headers.

    Args:
        app: the application behind it.
        hosts: names that the server may be called by besides loopback's.
        any_address: a Host that is an IP address is accepted, for a server on all interfaces; no
            other site can have an address for its name.
        max_bytes: a longer body is refused.
    """

    def __init__(
        self, app: Any, *, hosts: Iterable[str] = (), any_address: bool = False, max_bytes: int
    ) -> None:
        self._app = app
        self._hosts = LOOPBACK_NAMES | {name.lower() for name in hosts}
        self._any_address = any_address
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Pass a request on, or answer it with an error."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }

        async def send_guarded(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(header for header in _SECURITY_HEADERS if header[0] not in present),
                ]
            await send(message)

        problem = self.problem(headers)
        if problem is not None:
            # Many clients read the answer only after they have sent everything.
            await _discard(receive, 4 * self._max_bytes)
            await _answer(send_guarded, *problem)
            return
        await self._app(scope, _Limited(receive, self._max_bytes), send_guarded)

    def problem(self, headers: dict[str, str]) -> tuple[int, str, str] | None:
        """Status, cause and cure of a fault in a request's headers, or None."""
        host = headers.get("host", "")
        if not self._is_own(_name_of(f"//{host}")):
            return (
                421,
                f"this server is not called {host!r}",
                "use http://127.0.0.1, or start it with --allow-host and that name",
            )
        origin = headers.get("origin")
        foreign = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
        if foreign or headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return 403, "a page of another site may not use this server", "open its own page"
        length = headers.get("content-length", "0")
        if not length.isdecimal():
            return 400, "the Content-Length is no number", "send the body's length in bytes"
        if int(length) > self._max_bytes:
            return too_long(self._max_bytes)
        return None

    def _is_own(self, name: str | None) -> bool:
        if name is None:
            return False
        if name in self._hosts:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._any_address or address.is_loopback


class BodyTooLongError(DehazeError):
    """The body is longer than its header says, or than is accepted."""


class _Limited:
    """Receives a request, and stops where its body is too long."""

    def __init__(self, receive: Any, max_bytes: int) -> None:
        self._receive = receive
        self._left = max_bytes

    async def __call__(self) -> dict[str, Any]:
        message: dict[str, Any] = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise BodyTooLongError
        return message


def too_long(max_bytes: int) -> tuple[int, str, str]:
    """Status, cause and cure of a body that is too long."""
    return (
        413,
        f"the photo has more than {max_bytes / 1e6:g} MB",
        "send a smaller one, or start the server with a larger --max-upload",
    )


def _name_of(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


async def _discard(receive: Any, most: int) -> None:
    """Read a body, or so much of it, and keep nothing."""
    while most > 0:
        message = await receive()
        most -= len(message.get("body", b""))
        if not message.get("more_body"):
            return


async def _answer(send: Any, status: int, cause: str, cure: str) -> None:
    body = json.dumps({"error": cause, "cure": cure}).encode()
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})
