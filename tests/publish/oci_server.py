"""A small OCI registry on a real socket, in memory, that can be told to fail; and a proxy that cuts connections.

The real docker-registry shows that the client speaks the protocol; this one shows what the client does when a registry answers
in ways that docker-registry only does on a bad day. An upload that was cut keeps the bytes that came, and says how many.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.loopback import LoopbackHandler, serving


@dataclass
class Fault:
    """What happens to the next `times` requests that match: a status, or the connection cut after `cut_after` body bytes."""

    method: str
    path: str  # a regular expression
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    error: str = "UNKNOWN"
    times: int = 1
    body_over: int = -1  # only where the body is larger


class FaultyRegistry:
    """What the server holds, and what it has been asked."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.uploads: dict[str, bytearray] = {}
        self.upload_numbers = itertools.count()
        self.faults: list[Fault] = []
        self.log: list[tuple[str, str, int]] = []  # method, path, body bytes that were taken
        self.token_asks: list[dict[str, list[str]]] = []
        self.user: tuple[str, str] | None = None  # who may come in, where anybody is asked
        self.uses_tokens = False
        self.ignores_range = False
        self.corrupts: str | None = None  # the digest of a blob that is given out wrong
        self.forgets_manifests = False
        self.host = ""

    @property
    def received_bytes(self) -> int:
        return sum(count for method, _, count in self.log if method == "PATCH")


@contextmanager
def faulty_registry() -> Iterator[FaultyRegistry]:
    registry = FaultyRegistry()
    with serving(_Handler, registry=registry) as host:
        registry.host = host
        yield registry


class _Handler(LoopbackHandler):
    registry: FaultyRegistry

    def do_GET(self) -> None:
        self._handle()

    do_HEAD = do_POST = do_PATCH = do_PUT = do_GET

    def _handle(self) -> None:
        registry, split = self.registry, urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        fault = next((it for it in registry.faults if self._matches(it, split.path, length)), None)
        if fault:
            fault.times -= 1
        if fault and fault.cut_after is not None:
            body = self.rfile.read(min(length, fault.cut_after))
            if self.command == "PATCH":
                registry.uploads[split.path.rpartition("/")[2]] += body
            registry.log.append((self.command, split.path, len(body)))
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        body = self.rfile.read(length)
        registry.log.append((self.command, split.path, 0 if fault else len(body)))
        if fault:
            self._error(fault.status, fault.error, fault.headers)
        elif split.path == "/token":
            self._give_token(parse_qs(split.query))
        elif self._is_let_in():
            self._route(split.path, parse_qs(split.query), body)

    def _matches(self, fault: Fault, path: str, length: int) -> bool:
        is_meant = fault.method == self.command and re.search(fault.path, path) is not None
        return is_meant and fault.times > 0 and length > fault.body_over

    def _route(self, path: str, query: dict[str, list[str]], body: bytes) -> None:
        registry, (place, _, last) = self.registry, path.rpartition("/")
        if place.endswith("/manifests"):
            if self.command == "PUT":
                registry.manifests[last] = body
                if registry.forgets_manifests:
                    registry.manifests[last] = body.replace(b"gguf", b"gguf ").replace(b'"size":', b'"size": ')
                self.answer(201)
            elif last in registry.manifests:
                digest = hashlib.sha256(registry.manifests[last]).hexdigest()
                self.answer(200, registry.manifests[last], {"Docker-Content-Digest": f"sha256:{digest}"})
            else:
                self._error(404, "MANIFEST_UNKNOWN")
        elif place.endswith("/tags"):
            self.answer(200, json.dumps({"tags": list(registry.manifests) or None}).encode())
        elif place.endswith("/uploads") or path.endswith("/uploads/"):
            self._upload(path, last, query, body)
        elif last in registry.blobs:
            self._give_blob(last)
        else:
            self._error(404, "BLOB_UNKNOWN")

    def _upload(self, path: str, upload: str, query: dict[str, list[str]], body: bytes) -> None:
        registry = self.registry
        if self.command == "POST":
            upload = f"u{next(registry.upload_numbers)}"
            registry.uploads[upload] = bytearray()
            self.answer(202, headers={"Location": f"{path}{upload}?state=a%3Db"})
        elif upload not in registry.uploads or query.get("state") != ["a=b"]:
            self._error(404, "BLOB_UPLOAD_UNKNOWN")
        elif self.command == "PUT":
            content = bytes(registry.uploads.pop(upload))
            if query["digest"] != [f"sha256:{hashlib.sha256(content).hexdigest()}"]:
                self._error(400, "DIGEST_INVALID")
            else:
                registry.blobs[query["digest"][0]] = content
                self.answer(201)
        else:
            content_so_far = registry.uploads[upload]
            if self.command == "PATCH":
                if not self.headers["Content-Range"].startswith(f"{len(content_so_far)}-"):
                    return self._error(416, "BLOB_UPLOAD_INVALID")
                content_so_far += body
            end = max(0, len(content_so_far) - 1)
            headers = {"Location": f"{path}?state=a%3Db", "Range": f"0-{end}"}
            self.answer(202 if self.command == "PATCH" else 204, headers=headers)
        return None

    def _give_blob(self, digest: str) -> None:
        content, headers, status = self.registry.blobs[digest], {}, 200
        if digest == self.registry.corrupts:
            content = content[:-1] + bytes([content[-1] ^ 1])
        if (asked := self.headers.get("Range")) and not self.registry.ignores_range:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            content, status = content[start:], 206
        self.answer(status, content, headers)

    def _is_let_in(self) -> bool:
        registry = self.registry
        if registry.user is None:
            return True
        basic = "Basic " + base64.b64encode(":".join(registry.user).encode()).decode()
        if self.headers.get("Authorization") == ("Bearer sesame" if registry.uses_tokens else basic):
            return True
        challenge = 'Basic realm="registry"'
        if registry.uses_tokens:
            challenge = (
                f'Bearer realm="http://{registry.host}/token",service="lab",scope="repository:ada/medllama:pull,push"'
            )
        self._error(401, "UNAUTHORIZED", {"WWW-Authenticate": challenge})
        return False

    def _give_token(self, query: dict[str, list[str]]) -> None:
        self.registry.token_asks.append(query)
        basic = "Basic " + base64.b64encode(":".join(self.registry.user or ("", "")).encode()).decode()
        if self.headers.get("Authorization") == basic:
            self.answer(200, json.dumps({"token": "sesame"}).encode())
        else:
            self._error(401, "UNAUTHORIZED")

    def _error(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        content: dict[str, Any] = {"errors": [{"code": code, "message": "as the test asked"}]}
        self.answer(status, json.dumps(content).encode(), headers)


@contextmanager
def cutting_proxy(host: str, sent: list[int], *, answers: bool = False) -> Iterator[str]:
    """A proxy before `host` that cuts its first connections, one after each number of bytes in `sent`: of what the client
    sends, or with `answers` of what comes back. Later connections are left alone."""
    address = (host.partition(":")[0], int(host.partition(":")[2]))
    listener = socket.create_server(("127.0.0.1", 0))
    left, threads = list(sent), []

    def pass_on(source: socket.socket, target: socket.socket, limit: int | None) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if limit is not None and len(data) >= limit:
                    target.sendall(data[:limit])
                    break
                limit = None if limit is None else limit - len(data)
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(address)
            limit = left.pop(0) if left else None
            for source, target, count in (
                (client, server, None if answers else limit),
                (server, client, limit if answers else None),
            ):
                threads.append(threading.Thread(target=pass_on, args=(source, target, count)))
                threads[-1].start()
            sockets.extend((client, server))

    sockets: list[socket.socket] = []
    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        assert not left, f"the test ended before every cut: {left} left"
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join()
        for end in sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for end in sockets:
            end.close()
