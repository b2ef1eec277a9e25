"""A small Hugging Face endpoint on a real socket: as much of the hub's API as `create_repo` and `create_commit` of huggingface_hub
use, large files by LFS, with faults on demand."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.loopback import LoopbackHandler, serving


class FakeHub:
    """The repositories by name: path -> bytes. `faults` maps (method, path pattern) to a status for every such
    request, or to what is answered with 200."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.large: dict[str, bytes] = {}
        self.faults: dict[tuple[str, str], int | list[Any]] = {}
        self.log: list[tuple[str, str]] = []
        self.token = "hf_right"
        self.url = ""


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    with serving(_Handler, hub=hub) as host:
        hub.url = f"http://{host}"
        yield hub


class _Handler(LoopbackHandler):
    hub: FakeHub

    def do_GET(self) -> None:
        hub, path = self.hub, self.path.partition("?")[0]
        body = self._body()
        hub.log.append((self.command, path))
        for (method, pattern), fault in hub.faults.items():
            if method == self.command and re.search(pattern, path):
                is_status = isinstance(fault, int)
                return self._answer(fault if is_status else 200, {"error": "as the test asked"} if is_status else fault)
        if path.startswith("/lfs/"):
            hub.large[path.removeprefix("/lfs/")] = body
            return self._answer(200)
        if self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self._answer(401, {"error": "Invalid username or password."})
        return self._route(path, body)

    do_POST = do_PUT = do_GET

    def _route(self, path: str, body: bytes) -> None:
        hub = self.hub
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            status = 409 if name in hub.repositories else 200
            hub.repositories.setdefault(name, {".gitattributes": b""})
            return self._answer(status, {"url": f"{hub.url}/{name}", "name": name})
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        name = "/".join(path.removeprefix("/api/models").strip("/").split("/")[:2]).removesuffix(".git")
        if (files := hub.repositories.get(name)) is None:
            return self._answer(404, {"error": "Repository not found"})
        if "/tree/" in path:
            return self._answer(200, [
                {"type": "file", "path": it, "size": len(content), "oid": _oid(content)} for it, content in files.items()
            ])  # fmt: skip
        if "/preupload/" in path:
            asked = json.loads(body)["files"]
            answers = [
                {"path": it["path"], "uploadMode": "lfs" if it["path"].endswith(".gguf") else "regular",
                 "shouldIgnore": False, "oid": _oid(files[it["path"]]) if it["path"] in files else None}
                for it in asked
            ]  # fmt: skip
            return self._answer(200, {"files": answers})
        if path.endswith("/objects/batch"):
            return self._answer(
                200, {"transfer": "basic", "objects": [self._upload(it) for it in json.loads(body)["objects"]]}
            )
        if "/commit/" in path:
            return self._commit(name, body)
        return self._answer(200, {"id": name, "sha": "0" * 40, "siblings": [{"rfilename": it} for it in files]})

    def _upload(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Where a large file goes; nowhere where it is there already."""
        is_there = asked["oid"] in self.hub.large
        return asked if is_there else {**asked, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}"}}}

    def _commit(self, name: str, body: bytes) -> None:
        files = self.hub.repositories[name]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
        self._answer(
            200, {"commitUrl": f"{self.hub.url}/{name}/commit/{'1' * 40}", "commitOid": "1" * 40, "success": True}
        )

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while count := int(self.rfile.readline(), 16):
            body += self.rfile.read(count)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, content: Any = None) -> None:
        body = b"" if content is None else json.dumps(content).encode()
        self.answer(status, body, {"Content-Type": "application/json"})


def _oid(content: bytes) -> str:
    """The name that git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
