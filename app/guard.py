"""What stands before the page and the API: which names they answer to, what the browser may do, and how much may be sent.

The policy forbids the browser to reach any other machine. Without a password only this machine's names are answered, so that no page
elsewhere reaches the models by giving its own name this machine's address; and no other page's script may post anything.
"""

from __future__ import annotations

import json
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit

from app.api_errors import error_body
from app.config import is_loopback

MOST_BODY_BYTES = 1_000_000
TOO_LARGE = f"at most {MOST_BODY_BYTES:,} bytes are read"
# Gradio's page has inline scripts and styles, and compiles templates. Everything else has to come from this server.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
asking_address: ContextVar[str] = ContextVar("asking_address", default="")  # of the request that is being answered


class Guard:
    """Adds HEADERS to every answer, refuses what is not for this server or too large, and leaves streams as they are."""

    def __init__(self, app: Any, *, is_local: bool) -> None:
        self.app = app
        self.is_local = is_local

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        received = 0

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *added]}
            await send(message)

        async def send_unless_too_large(message: Any) -> None:
            if received <= MOST_BODY_BYTES:
                await send_with_headers(message)

        async def receive_bounded() -> Any:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MOST_BODY_BYTES:
                await refuse(send_with_headers, 413, TOO_LARGE)
                return {"type": "http.disconnect"}
            return message

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        asking_address.set((scope.get("client") or ("",))[0])
        if (refused := self.refusal(scope["method"], headers)) is not None:
            await refuse(send_with_headers, *refused)
        else:
            await self.app(scope, receive_bounded, send_unless_too_large)

    def refusal(self, method: str, headers: dict[str, str]) -> tuple[int, str] | None:
        """The status and the reason of what is not even looked at."""
        if self.is_local and not is_loopback(host_of(headers)):
            return 421, "this server answers to the names of its own machine alone: 127.0.0.1 or localhost"
        if is_foreign(headers) and method not in ("GET", "HEAD"):
            return 403, "another page's script may not ask here"
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > MOST_BODY_BYTES:
            return 413, TOO_LARGE
        return None


def host_of(headers: dict[str, str]) -> str:
    """The name that the client knows this server by, without the port; empty where it is none."""
    try:
        return urlsplit(f"//{headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


def is_foreign(headers: dict[str, str]) -> bool:
    """Whether a page of another server sends this."""
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != headers.get("host")


async def refuse(send: Any, status: int, message: str) -> None:
    """An error without the application."""
    body = json.dumps(error_body(message)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
