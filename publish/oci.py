"""One repository of an OCI registry: blobs up and down in pieces that resume, manifests by tag.

    repository = Repository("localhost:5000", "ada/medllama")
    repository.upload(layer)                   HEAD; POST, PATCH ... PATCH, PUT ?digest=
    repository.put_manifest("latest", content)
    repository.download(digest, size, path)    GET with Range, hashed as it comes

A connection may be lost at any byte: the upload asks the registry how far it came and goes on from there; where the registry has
given that upload up (docker-registry does after a piece that was cut), this blob begins again, and no other. http is used
for loopback, https for everything else. Specification: OCI distribution 1.1.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

from medllama import progress
from medllama.errors import CheckFailed, InputError, MedllamaError, ResourceError
from publish.layers import MANIFEST_TYPE, Layer
from publish.patience import FAULTS, Passing, Patience, raise_if_passing
from publish.registry_auth import PASSWORD, USER, RegistryAuth, is_loopback

CHUNK_BYTES = 8 << 20
SMALLEST_CHUNK_BYTES = 64 << 10
TIMEOUT = httpx.Timeout(60, connect=10)
LARGEST_MANIFEST_BYTES = 4 << 20  # what registries take
# Whatever stands under a tag is to be seen: a type that is not asked for is answered as if nothing were there.
MANIFEST_TYPES = ", ".join((
    MANIFEST_TYPE, "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json",
))  # fmt: skip
Result = TypeVar("Result")


class Repository:
    """A repository of a registry. Every method retries what may pass, and raises what people can mend."""

    def __init__(self, host: str, path: str) -> None:
        self.host, self.path = host, path
        scheme = "http" if is_loopback(host.rpartition(":")[0] or host) or is_loopback(host) else "https"
        self.url = httpx.URL(f"{scheme}://{host}/v2/{path}/")
        self.http = httpx.Client(auth=RegistryAuth(host), timeout=TIMEOUT, follow_redirects=True)
        self.chunk_bytes = CHUNK_BYTES

    def __enter__(self) -> Repository:
        return self

    def __exit__(self, *error: object) -> None:
        self.http.close()

    def has_blob(self, digest: str, size: int) -> bool:
        """Whether the registry has the blob in its full size."""

        def look() -> bool:
            response = self._ask("HEAD", f"blobs/{digest}", allowed=(404,))
            return response.status_code == 200 and response.headers.get("content-length", str(size)) == str(size)

        return self._persistently(look, f"asking {self.host} for a blob")

    def upload(self, layer: Layer, label: str) -> bool:
        """Send a blob, resuming after faults; False where the registry had it already."""
        if self.has_blob(layer.digest, layer.size_bytes):
            return False
        upload = _Upload(self, layer, label)
        patience = Patience(f"uploading {label} to {self.host}")
        while True:
            try:
                upload.send_rest()
                return True
            except FAULTS as fault:
                patience.wait(fault, upload.furthest)
                if self.has_blob(layer.digest, layer.size_bytes):  # only the answer was lost
                    return True

    def put_manifest(self, tag: str, content: bytes) -> None:
        """Give the tag to a manifest whose blobs are all there."""
        headers = {"Content-Type": MANIFEST_TYPE}
        self._persistently(
            lambda: self._ask("PUT", f"manifests/{tag}", content=content, headers=headers),
            f"writing the manifest of {tag} to {self.host}",
        )

    def manifest(self, tag: str) -> bytes | None:
        """The manifest of a tag, checked against the digest that the registry gives; None where there is none."""

        def get() -> bytes | None:
            response = self._ask("GET", f"manifests/{tag}", headers={"Accept": MANIFEST_TYPES}, allowed=(404,))
            if response.status_code == 404:
                return None
            stated = response.headers.get("docker-content-digest")
            if stated and stated != f"sha256:{hashlib.sha256(response.content).hexdigest()}":
                raise CheckFailed(f"the manifest of {tag} in {self.host} is not what its digest says: {stated}",
                                  hint="something on the way changes it; try again, or another network")  # fmt: skip
            return response.content

        return self._persistently(get, f"reading the manifest of {tag} from {self.host}")

    def tags(self) -> list[str]:
        """The tags that are there; none where the registry has no such repository, or does not list tags."""

        def get() -> list[str]:
            response = self._ask("GET", "tags/list", allowed=(403, 404, 405, 501))
            try:
                return [str(tag) for tag in json.loads(response.content)["tags"] or ()]
            except (ValueError, KeyError, TypeError):
                return []

        return self._persistently(get, f"asking {self.host} for its tags")

    def small_blob(self, digest: str) -> bytes:
        """The bytes of a blob that is known to be small."""
        return self._persistently(lambda: self._ask("GET", f"blobs/{digest}").content, f"reading from {self.host}")

    def download(self, digest: str, size: int, path: Path, label: str) -> None:
        """Bring a blob into `path`, going on where an earlier download ended. Raises CheckFailed on other bytes."""
        patience = Patience(
            f"downloading {label} from {self.host}", "run the same command again: it goes on from there"
        )
        while True:
            try:
                self._download_rest(digest, size, path, label)
                return
            except FAULTS as fault:
                patience.wait(fault, path.stat().st_size if path.exists() else 0)

    def _download_rest(self, digest: str, size: int, path: Path, label: str) -> None:
        path.touch()  # a blob may be empty
        done = path.stat().st_size
        if done < size:
            headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
            with self._stream(f"blobs/{digest}", headers) as response:
                mode = "ab" if response.status_code == 206 else "wb"
                done = done if response.status_code == 206 else 0
                with path.open(mode) as file:
                    # Written as it comes: what is held back would be lost with the connection.
                    for piece in response.iter_raw():
                        file.write(piece)
                        done += len(piece)
                        progress.update(f"{label}: {done / 1e6:,.1f} of {size / 1e6:,.1f} MB", done, size)
            if done < size:
                raise Passing(f"{done:,} of {size:,} bytes came")
        with path.open("rb") as file:
            found = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        if found != digest:
            path.unlink()
            raise CheckFailed(
                f"{label} from {self.host} is not what its digest says: it is {found}, not {digest}",
                hint="run the same command again; if it stays, the registry's disk or something on the way changes it",
            )

    @contextmanager
    def _stream(self, place: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
        with self.http.stream("GET", self.url.join(place), headers=headers) as response:
            if not response.is_success:
                response.read()
            self.judge(response)
            yield response

    def _ask(self, method: str, place: str, *, allowed: tuple[int, ...] = (), **extra: Any) -> httpx.Response:
        response = self.http.request(method, self.url.join(place), **extra)
        self.judge(response, allowed)
        return response

    def _persistently(self, action: Callable[[], Result], work: str) -> Result:
        patience = Patience(work, f"is {self.host} running, and is its name right? Run the same command again")
        while True:
            try:
                return action()
            except FAULTS as fault:
                patience.wait(fault)

    def judge(self, response: httpx.Response, allowed: tuple[int, ...] = ()) -> None:
        """Raise what an answer means, unless it is a success or one of `allowed`."""
        status = response.status_code
        if response.is_success or status in allowed:
            return
        raise_if_passing(response, reason := _reason(response))
        said = f"{self.host} says {status}" + (f" ({reason})" if reason else "")
        wish = "read" if response.request.method in ("GET", "HEAD") else "write to"
        known: dict[int, MedllamaError] = {
            401: InputError(f"{said}: it wants to know who you are, or knows better",
                            hint=f"log in with docker login {self.host}, or set {USER} and {PASSWORD}"),
            403: InputError(f"{said}: you may not {wish} {self.path}",
                            hint="choose a namespace that is yours, or ask who runs the registry"),
            405: InputError(f"{said}: the registry is read-only", hint="publish to another one"),
            413: ResourceError(f"{said}: even {self.chunk_bytes:,} bytes are too much for it",
                               hint="raise the limit of the proxy before it (nginx: client_max_body_size 0)"),
            507: ResourceError(f"{said}: its disk is full", hint="free some space there"),
        }  # fmt: skip
        if "DIGEST_INVALID" in reason:
            raise CheckFailed(
                f"{said}: what arrived is not what was sent",
                hint="run it again; if it stays, something on the way changes bytes",
            )
        raise known.get(status) or ResourceError(said, hint=f"is {self.host} an OCI registry, and the name right?")


class _Upload:
    """One blob on its way: where the registry wants the rest, and how far it has come."""

    def __init__(self, repository: Repository, layer: Layer, label: str) -> None:
        self.repository, self.layer, self.label = repository, layer, label
        self.location: httpx.URL | None = None
        self.offset = 0
        self.furthest = 0
        self.is_certain = True  # False after a fault: the registry has to be asked how far it came

    def send_rest(self) -> None:
        """Send everything from where the registry is, and close the blob. Raises Passing or a transport's fault on the way."""
        if not self.is_certain:
            self._ask_how_far()
        self.is_certain = False
        if self.location is None:
            self._begin()
        while self.offset < self.layer.size_bytes:
            self._send_chunk()
        assert self.location is not None
        closing = self.location.copy_merge_params({"digest": self.layer.digest})
        headers = {"Content-Type": "application/octet-stream", "Content-Length": "0"}
        self.repository.judge(self.repository.http.put(closing, headers=headers))

    def _begin(self) -> None:
        response = self.repository.http.post(
            self.repository.url.join("blobs/uploads/"), headers={"Content-Length": "0"}
        )
        self.repository.judge(response)
        self.offset = 0
        self._follow(response)

    def _send_chunk(self) -> None:
        assert self.location is not None
        chunk = _read(self.layer, self.offset, self.repository.chunk_bytes)
        if not chunk:
            raise CheckFailed(
                f"{self.label} became shorter while it was published", hint="leave the package alone meanwhile"
            )
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{self.offset}-{self.offset + len(chunk) - 1}",
        }
        response = self.repository.http.patch(self.location, content=chunk, headers=headers)
        if response.status_code == 413 and len(chunk) > SMALLEST_CHUNK_BYTES:
            self.repository.chunk_bytes = max(SMALLEST_CHUNK_BYTES, len(chunk) // 2)
            return
        if response.status_code in (404, 416):
            raise Passing("the registry lost its place")
        self.repository.judge(response)
        self.offset += len(chunk)
        self.furthest = max(self.furthest, self.offset)
        self._follow(response)
        progress.update(f"{self.label}: {self.offset / 1e6:,.1f} of {self.layer.size_bytes / 1e6:,.1f} MB",
                        self.offset, self.layer.size_bytes)  # fmt: skip

    def _ask_how_far(self) -> None:
        """Take up the registry's own place. Where it has none, or none that can be told from zero, the upload begins again."""
        location, self.location, self.offset = self.location, None, 0
        if location is None:
            return
        response = self.repository.http.get(location)
        raise_if_passing(response, _reason(response))
        start, _, end = response.headers.get("range", "").removeprefix("bytes=").partition("-")
        if response.is_success and start == "0" and end.isdigit() and 0 < int(end) < self.layer.size_bytes:
            self.offset = int(end) + 1
            self.furthest = max(self.furthest, self.offset)
            self.location = location
            self._follow(response)

    def _follow(self, response: httpx.Response) -> None:
        """The registry names the place of the next piece anew in each answer."""
        if place := response.headers.get("location"):
            self.location = response.url.join(place)
            if response.url.scheme == "https":  # a registry behind a proxy often names its own, unencrypted door
                self.location = self.location.copy_with(scheme="https")
        if self.location is None:
            raise ResourceError(
                f"{self.repository.host} opened an upload without saying where", hint="is it an OCI registry?"
            )


def _read(layer: Layer, offset: int, count: int) -> bytes:
    if isinstance(layer.source, bytes):
        return layer.source[offset : offset + count]
    with layer.source.open("rb") as file:
        file.seek(offset)
        return file.read(min(count, layer.size_bytes - offset))


def _reason(response: httpx.Response) -> str:
    """What the registry says of an error, in one line."""
    try:
        told = json.loads(response.content)["errors"]
        return "; ".join(f"{it.get('code', '')}: {it.get('message', '')}".strip(": ") for it in told)[:300]
    except (ValueError, KeyError, TypeError, AttributeError):
        return response.reason_phrase
