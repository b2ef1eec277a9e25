"""`medllama app`: the models in memory, and the page that asks them, on this machine.

    medllama app tiny
    medllama app --model medllama-base-Q4_K_M.gguf --model medllama-Q4_K_M.gguf

It listens on this machine alone unless `--host` says otherwise, and then asks for a password. It reaches for nothing outside: no
font, script, version check or share link; the page's own headers forbid the browser to try.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from pathlib import Path
from typing import Any

from app.config import AppConfig
from app.conversation import open_voices
from medllama import progress
from medllama.errors import InputError, ResourceError
from medllama.files import read_text
from medllama.stages import StageResult

PORTS_TRIED = 20
USER = "medllama"
LOCAL_NAMES = ["127.0.0.1", "localhost", "[::1]", "::1"]
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


def serve(config: AppConfig) -> StageResult:
    """Serve the page until Ctrl-C. Everything that can be wrong with the models shows before the server starts."""
    password = read_password(config.password_file) if config.password_file else None
    listener = listen(config.host, config.port)
    paths = [Path(name) for name in config.model]
    with (
        listener,
        open_voices(
            paths, context_tokens=config.context_tokens, adapter=config.adapter_gguf, threads=config.threads
        ) as voices,
    ):
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        from app.page import Page

        host, port = listener.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        application = build(Page(voices, config), password, is_loopback=config.is_loopback)
        progress.message(f"{', '.join(voice.name for voice in voices)}: {url}  (Ctrl-C ends)")
        if password is not None:
            progress.message(f"user {USER}, password as in {config.password_file}; it crosses the network unencrypted")
        with contextlib.suppress(KeyboardInterrupt):
            run(application, listener)
    return StageResult(None, {"line": "ended", "url": url})


def run(application: Any, listener: socket.socket) -> None:
    """Serve until a signal ends it. Pages that are open then are cut off, and that is no error to report."""
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
            super().handle_exit(sig, frame)

    Server(uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=1)).run(sockets=[listener])


def build(page: Any, password: str | None, *, is_loopback: bool) -> Any:
    """The web application: Gradio's page inside FastAPI, with the headers and the names it answers to."""
    import gradio
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from app.page import CSS, theme

    application = FastAPI(openapi_url=None)
    # A page elsewhere that gives its own name this machine's address must not reach the models.
    application.add_middleware(TrustedHostMiddleware, allowed_hosts=LOCAL_NAMES if is_loopback else ["*"])
    application.add_middleware(Headers)
    return gradio.mount_gradio_app(
        application, page.blocks(), path="/", footer_links=[], run_history=False, ssr_mode=False, mcp_server=False,
        enable_monitoring=False, pwa=False, max_file_size=0, theme=theme(), css_paths=[CSS],
        auth=(USER, password) if password is not None else None,
    )  # fmt: skip


class Headers:
    """Adds HEADERS to every answer, and leaves streams as they are."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *added]}
            await send(message)

        await self.app(scope, receive, send_with_headers)


def listen(host: str, port: int) -> socket.socket:
    """A socket on the first free port from `port` on; 0 is any. Raises ResourceError where all are taken."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise InputError(f"{host} is no address of this machine: {error}", hint="leave --host out") from None
    tried = range(port, min(port + PORTS_TRIED, 65536)) if port else [0]
    for number in tried:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address[0], number))
            listener.listen()
            return listener
        except OSError as error:
            listener.close()
            reason = error.strerror
    raise ResourceError(
        f"no port of {host} from {port} to {tried[-1]} can be used: {reason}", hint="--port 0 takes any"
    )


def read_password(path: Path) -> str:
    """The first line of the password file."""
    password = (read_text(path).splitlines() or [""])[0].strip()
    if len(password) < 8:
        raise InputError(f"the first line of {path} is no password of 8 characters or more", hint="write a longer one")
    return password
