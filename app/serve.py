"""`medllama app`: the models in memory, and the page that asks them, on this machine.

    medllama app tiny
    medllama app --model medllama-base-Q4_K_M.gguf --model medllama-Q4_K_M.gguf

It listens on this machine alone unless `--host` says otherwise, and then asks for a password, the API too. It reaches for nothing
outside: no font, script, version check or share link; the page's own headers forbid the browser to try (app/guard.py).
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from app.config import AppConfig
from app.conversation import Sampling
from app.engine import Engine
from app.guard import Guard, refuse
from app.notice import NOTICE
from app.password import LOGIN_NOTE, USER, Door, read_password
from app.voices import Voices, open_voices
from medllama import __version__, progress
from medllama.errors import InputError, ResourceError
from medllama.stages import StageResult

PORTS_TRIED = 20
OF_API_PATHS = {"v1", "compare", "healthz", "docs", "openapi.json"}
# What the page's script needs of Gradio's own API. The rest takes files, calls other servers, or writes code.
OF_GRADIO = {
    "queue", "run", "heartbeat", "reset", "cancel", "app_id", "startup-events", "info", "theme.css", "login_check",
}  # fmt: skip


def serve(config: AppConfig) -> StageResult:
    """Serve the page until Ctrl-C. Everything that can be wrong with the models shows before the server starts."""
    password = read_password(config.password_file) if config.password_file else None
    listener = listen(config.host, config.port)
    with listener, voices_of(config) as voices:
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        host, port = listener.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        application = build(Engine(voices, max_seconds=config.max_seconds), config, password)
        progress.message(f"{', '.join(voice.name for voice in voices)}: {url}  (Ctrl-C ends)")
        progress.message(f"its API is described at {url}docs")
        if password is not None:
            progress.message(f"user {USER}, password as in {config.password_file}; it crosses the network unencrypted")
        with contextlib.suppress(KeyboardInterrupt):
            run(application, listener)
    return StageResult(None, {"line": "ended", "url": url})


def voices_of(config: AppConfig) -> AbstractContextManager[Voices]:
    """The models that the configuration names, open."""
    if config.backend == "ollama":
        from app.ollama_voice import open_ollama_voices

        return open_ollama_voices(config.model, config.ollama_host)
    return open_voices(
        [Path(name) for name in config.model], context_tokens=config.context_tokens, adapter=config.adapter_gguf,
        threads=config.threads, may_be_missing=True,
    )  # fmt: skip


def run(application: Any, listener: socket.socket) -> None:
    """Serve until a signal ends it. Pages that are open then are cut off, and that is no error to report."""
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
            super().handle_exit(sig, frame)

    Server(uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=1)).run(sockets=[listener])


def build(engine: Engine, config: AppConfig, password: str | None) -> Any:
    """The web application: the API and Gradio's page beside each other, behind the guard."""
    import gradio
    from fastapi import Depends, FastAPI
    from gradio.route_utils import FnIndexInferError

    from app.api import health_router, router
    from app.api_errors import OF_API, OF_PAGE, no_such_part
    from app.page import Page
    from app.theme import CSS, HEAD, theme

    door = None if password is None else Door(password)
    api = FastAPI(
        title="medllama", version=__version__, description=NOTICE, openapi_url=None, docs_url=None, redoc_url=None,
        exception_handlers=OF_API,
    )  # fmt: skip
    sampling = Sampling(config.temperature, config.top_p, config.seed, config.max_tokens)
    api.include_router(health_router(engine))
    api.include_router(
        router(engine, sampling, config.system), dependencies=[] if door is None else [Depends(door.check)]
    )
    page = gradio.mount_gradio_app(
        FastAPI(openapi_url=None), Page(engine, config).blocks(), path="/", footer_links=[], run_history=False,
        ssr_mode=False, mcp_server=False, enable_monitoring=False, pwa=False, max_file_size=0, theme=theme(),
        css_paths=[CSS], head=HEAD, auth=None if door is None else door.login,
        auth_message=None if door is None else LOGIN_NOTE,
        app_kwargs={"exception_handlers": OF_PAGE | {KeyError: no_such_part, FnIndexInferError: no_such_part}},
    )  # fmt: skip
    return Guard(beside(api, page), is_local=config.is_loopback)


def beside(api: Any, page: Any) -> Any:
    """One application of both: what begins with a part of the API is the API's to answer or to refuse, the rest is the page's."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        first, _, rest = (scope["path"] if scope["type"] == "http" else "").strip("/").partition("/")
        if first == "gradio_api" and rest.partition("/")[0] not in OF_GRADIO:
            await refuse(send, 404, f"there is no {scope['path']}")
        else:
            await (api if first in OF_API_PATHS else page)(scope, receive, send)

    return application


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
