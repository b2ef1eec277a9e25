"""What stands before the page and the API: which names they answer to, what the browser may do, how much may be sent, and who may.

The policy forbids the browser to reach any other machine. Without a password only this machine's names are answered, so that no page
elsewhere reaches the models by giving its own name this machine's address; and no other page's script may post anything.
"""

from __future__ import annotations

import base64
import json
import secrets
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request

from app.api_errors import ApiError, error_body

USER = "medllama"
LOCAL_NAMES = ["127.0.0.1", "localhost", "[::1]", "::1"]
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


class Guard:
    """Adds HEADERS to every answer, refuses what other pages post and what is too large, and leaves streams as they are."""

    def __init__(self, app: Any) -> None:
        self.app = app

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
        length = headers.get("content-length", "0")
        if is_foreign(headers) and scope["method"] not in ("GET", "HEAD"):
            await refuse(send_with_headers, 403, "another page's script may not ask here")
        elif length.isdigit() and int(length) > MOST_BODY_BYTES:
            await refuse(send_with_headers, 413, TOO_LARGE)
        else:
            await self.app(scope, receive_bounded, send_unless_too_large)


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


def password_needed(password: str | None) -> Any:
    """A dependency of routes: the password as a bearer token (OpenAI's clients: `api_key`) or as HTTP basic."""

    async def check(request: Request) -> None:
        if password is None or secrets.compare_digest(given_password(request).encode(), password.encode()):
            return
        raise ApiError(401, "the password is missing or wrong", kind="authentication_error", code="invalid_api_key")

    return check


def given_password(request: Request) -> str:
    """The password that a request brings; empty where it brings none."""
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip().encode("latin-1").decode(errors="replace")  # as which the server reads every header
    if kind.lower() == "basic":
        try:
            user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
        except ValueError:
            return ""
        return password if user == USER else ""
    return ""
