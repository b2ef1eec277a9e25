"""A small Ollama server on a real socket: the part of the API that publishing uses, as Ollama's server/routes.go answers it,
with faults on demand.

It keeps blobs on disk, creates only from blobs that it has, and renders prompts from the uploaded GGUF's own chat template when
the TEMPLATE is the one derived from it. What it cannot show is how Ollama itself runs a model.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medllama.gguf_metadata import read_gguf_metadata
from medllama.go_template import Layout, read_layout
from tests.loopback import LoopbackHandler, serving

NOT_FOUND = 404


@dataclass
class Fault:
    """What happens to the next `times` requests of this method and path."""

    method: str
    path: str  # a regular expression
    status: int = 0
    error: str = ""
    lines: list[Any] = field(default_factory=list)  # streamed with status 200, then the end
    body: bytes = b""  # answered in place of the error
    cut_after: int | None = None  # body bytes, after which the connection is cut
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1


class FakeOllama:
    """What the server has, and what it has been asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.version = "0.33.2"
        self.models: dict[str, dict[str, Any]] = {}
        self.hub: dict[str, set[str]] = {}  # what has been pushed: name -> digests
        self.faults: list[Fault] = []
        self.log: list[tuple[str, str]] = []
        self.asked: list[dict[str, Any]] = []
        self.account: dict[str, str] | str | None = "unknown"  # /api/me is missing
        self.shows_prompts = True
        self.template_is_lost = False
        self.done_reason = "stop"
        self.url = ""

    def blob(self, digest: str) -> Path:
        return self.folder / digest.replace(":", "-")


@functools.cache
def layout_of(path: Path) -> tuple[str, Layout]:
    """The TEMPLATE derived from a GGUF's chat template, and what renders it."""
    chat = read_gguf_metadata(path).chat
    assert chat is not None
    layout = read_layout(chat)
    return layout.go_template(), layout


@contextmanager
def fake_ollama(folder: Path) -> Iterator[FakeOllama]:
    fake = FakeOllama(folder)
    with serving(_Handler, fake=fake) as host:
        fake.url = f"http://{host}"
        yield fake


class _Handler(LoopbackHandler):
    fake: FakeOllama

    def do_GET(self) -> None:
        fake, length = self.fake, int(self.headers.get("Content-Length") or 0)
        fake.log.append((self.command, self.path))
        fault = next(
            (it for it in fake.faults if it.times and it.method == self.command and re.search(it.path, self.path)), None
        )
        if fault is not None:
            fault.times -= 1
            return self._fail(fault, length)
        body = self.rfile.read(length)
        if self.path.startswith("/api/blobs/"):
            return self._blob(self.path.rpartition("/")[2], body)
        asked = json.loads(body) if body else {}
        fake.asked.append({"path": self.path, **asked})
        route = getattr(self, "_" + self.path.removeprefix("/api/"), None)
        if route is None:
            return self._answer(NOT_FOUND, {"error": "404 page not found"})
        return route(asked)

    do_HEAD = do_POST = do_DELETE = do_GET

    def _fail(self, fault: Fault, length: int) -> None:
        if fault.cut_after is not None:
            self.rfile.read(min(length, fault.cut_after))
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.rfile.read(length)
        if fault.lines:
            self._stream(fault.lines)
        elif fault.body:
            self.answer(fault.status, fault.body)
        else:
            self._answer(fault.status, {"error": fault.error}, fault.headers)

    def _version(self, asked: dict[str, Any]) -> None:
        self._answer(200, {"version": self.fake.version})

    def _me(self, asked: dict[str, Any]) -> None:
        account = self.fake.account
        if account == "unknown":
            self._answer(NOT_FOUND, {"error": "404 page not found"})
        elif account is None:
            self._answer(401, {"error": "unauthorized", "signin_url": "https://ollama.com/connect?name=here"})
        else:
            self._answer(200, account)

    def _blob(self, digest: str, body: bytes) -> None:
        path = self.fake.blob(digest)
        if self.command == "HEAD" or path.exists():
            self._answer(200 if path.exists() else NOT_FOUND)
        elif digest != f"sha256:{hashlib.sha256(body).hexdigest()}":
            self._answer(400, {"error": f"digest mismatch, expected {digest!r}"})
        else:
            path.write_bytes(body)
            self._answer(201)

    def _create(self, asked: dict[str, Any]) -> None:
        digests = list((asked.get("files") or {}).values())
        if not digests:
            return self._answer(400, {"error": "neither 'from' or 'files' was specified"})
        if not all(self.fake.blob(digest).exists() for digest in digests):
            return self._answer(400, {"error": "blob not found"})
        if not isinstance(asked["parameters"].get("stop", []), list):
            return self._answer(500, {"error": "stop must be a list"})
        licences = asked.get("license") or []
        self.fake.models[asked["model"]] = {
            "digest": digests[0],
            "template": "" if self.fake.template_is_lost else asked.get("template") or "",
            "system": asked.get("system") or "",
            "license": "\n".join([licences] if isinstance(licences, str) else licences),
            "parameters": asked["parameters"],
            "modified_at": datetime.now(UTC).isoformat(),
        }
        return self._stream([{"status": status} for status in ("parsing GGUF", "creating new layer", "success")])

    def _show(self, asked: dict[str, Any]) -> None:
        if (model := self._model(asked)) is None:
            return
        lines = []
        for key, value in model["parameters"].items():
            lines += [f"{key:<30} {json.dumps(it)}" for it in (value if isinstance(value, list) else [value])]
        shown = {key: model[key] for key in ("template", "license", "modified_at")}
        self._answer(200, {**shown, "parameters": "\n".join(lines), "model_info": {}})

    def _chat(self, asked: dict[str, Any]) -> None:
        if (model := self._model(asked)) is None:
            return
        messages = asked["messages"]
        if model["system"] and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": model["system"]}, *messages]
        if asked.get("_debug_render_only") and self.fake.shows_prompts:
            template, layout = layout_of(self.fake.blob(model["digest"]))
            rendered = "<|im_start|>user\n..."  # what Ollama makes of a model without a TEMPLATE
            if model["template"] == template:
                rendered = layout.render(messages)
            return self._answer(200, {"model": asked["model"], "_debug_info": {"rendered_template": rendered}})
        answer = {"role": "assistant", "content": "A disease."}
        return self._answer(
            200, {"model": asked["model"], "message": answer, "done": True, "done_reason": self.fake.done_reason}
        )

    def _tags(self, asked: dict[str, Any]) -> None:
        models = [{"model": name, "modified_at": it["modified_at"]} for name, it in self.fake.models.items()]
        self._answer(200, {"models": models})

    def _copy(self, asked: dict[str, Any]) -> None:
        if asked["source"] not in self.fake.models:
            return self._answer(NOT_FOUND, {"error": f"model {asked['source']!r} not found"})
        self.fake.models[asked["destination"]] = dict(self.fake.models[asked["source"]])
        return self._answer(200)

    def _delete(self, asked: dict[str, Any]) -> None:
        if self._model(asked) is not None:
            del self.fake.models[asked["model"]]
            self._answer(200)

    def _push(self, asked: dict[str, Any]) -> None:
        if (model := self._model(asked)) is None:
            return
        digest, total = model["digest"], 1000
        lines: list[dict[str, Any]] = [{"status": "retrieving manifest"}]
        lines += [
            {"status": f"pushing {digest[7:19]}", "digest": digest, "total": total, "completed": count}
            for count in (500, total)
        ]
        self.fake.hub.setdefault(asked["model"], set()).add(digest)
        self._stream([*lines, {"status": "pushing manifest"}, {"status": "success"}])

    def _model(self, asked: dict[str, Any]) -> dict[str, Any] | None:
        model = self.fake.models.get(asked["model"])
        if model is None:
            self._answer(NOT_FOUND, {"error": f"model {asked['model']!r} not found"})
        return model

    def _stream(self, lines: list[Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Connection", "close")
        self.end_headers()
        for line in lines:
            self.wfile.write(json.dumps(line).encode() + b"\n")
        self.close_connection = True

    def _answer(self, status: int, content: Any = None, headers: dict[str, str] | None = None) -> None:
        self.answer(status, b"" if content is None else json.dumps(content).encode(), headers)
