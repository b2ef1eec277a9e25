"""A running Ollama server, asked through the official client: blobs, create, show, copy, push.

    with OllamaServer(server_url("")) as server:
        server.require_version()
        server.upload(layer, "medllama-Q4_K_M.gguf")

Errors arrive as a status or, once the server streams, as a line of it; both become one line for people. The client sets
no timeout of its own: here is one. What the client cannot do (ask for a blob before sending it, the rendered prompt) is
asked with httpx. API: docs/api.md of Ollama.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import httpx
import ollama
from packaging.version import InvalidVersion, Version

from medllama import progress
from medllama.chat import Message
from medllama.errors import CheckFailed, InputError, ResourceError
from publish.gate import Package
from publish.layers import Layer, Model
from publish.patience import FAULTS, PASSING_STATUS, Passing, Patience, raise_if_passing
from publish.reference import ModelName
from publish.targets import size

OLDEST_VERSION = Version("0.5.5")  # the first whose /api/create takes files and parameters
TIMEOUT = httpx.Timeout(900, connect=10)  # a big model is rewritten and loaded without a word in between
PIECE_BYTES = 1 << 20
PUBLIC_KEY = (
    "~/.ollama/id_ed25519.pub of the user who runs the server, for Linux's service"
    " /usr/share/ollama/.ollama/id_ed25519.pub"
)
NOT_OLLAMA = (ValueError, TypeError, AttributeError)  # what the client raises of an answer that is none of Ollama's
Result = TypeVar("Result")


def server_url(place: str) -> str:
    """The address of a server: as given, else OLLAMA_HOST, else Ollama's own default."""
    text = place or os.environ.get("OLLAMA_HOST", "") or "127.0.0.1"
    try:
        url = httpx.URL(text if "://" in text else f"http://{text}")
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise InputError(f"{text!r} is no address of a server", hint="write ollama:http://HOST:11434")
    if "://" not in text and not re.search(r":\d+/*$", text):
        url = url.copy_with(port=11434)
    if url.host == "0.0.0.0":  # what a server listens to, and no place to go to
        url = url.copy_with(host="127.0.0.1")
    return str(url).rstrip("/")


class OllamaServer:
    """A server at an address. Every method raises what people can mend."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = ollama.Client(host=url, timeout=TIMEOUT)
        self.http = httpx.Client(base_url=url, timeout=TIMEOUT)

    def __enter__(self) -> OllamaServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()
        self.http.close()

    def require_version(self, asked: str = "") -> None:
        """Raise ResourceError where nobody answers, or a server that is older than the package asks for, or than this client
        can talk to."""
        oldest = max(OLDEST_VERSION, Version(asked or "0"))
        answer = self.told("asking for its version", lambda: self.http.get("/api/version"))
        try:
            version = Version(answer.json()["version"])
        except (ValueError, KeyError, TypeError, InvalidVersion):
            raise ResourceError(f"{self.url} is no Ollama server", hint="is the address right?") from None
        if version < oldest and version.release != (0, 0, 0):  # 0.0.0: built from source
            raise ResourceError(
                f"the Ollama server at {self.url} is {version}, and {oldest} is needed",
                hint="update it: https://ollama.com/download",
            )

    def show(self, name: ModelName) -> ollama.ShowResponse | None:
        """What the server has under a name; None where that is nothing."""

        def ask() -> ollama.ShowResponse | None:
            try:
                return self.client.show(str(name))
            except ollama.ResponseError as error:
                if error.status_code == 404:
                    return None
                raise

        return self.told(f"asking for {name}", ask)

    def upload(self, layer: Layer, label: str) -> bool:
        """Give the server a file; False where it has it. The server takes a blob as a whole, so a cut begins it again."""
        patience = Patience(f"uploading {label} to {self.url}")
        while True:
            try:
                return self._upload_once(layer, label)
            except httpx.ConnectError:
                raise self._absent() from None
            except FAULTS as fault:
                patience.wait(fault)

    def _upload_once(self, layer: Layer, label: str) -> bool:
        place = f"/api/blobs/{layer.digest}"
        if self.http.head(place).status_code == 200:
            return False
        headers = {"Content-Length": str(layer.size_bytes)}
        answer = self.http.post(place, content=_pieces(layer, label), headers=headers)
        if answer.is_success:
            return True
        reason = error_in(answer.text)
        if answer.status_code == 400:
            raise CheckFailed(
                f"{self.url} refused {label}: {reason}", hint="what arrived is not what was sent; try again"
            )
        if answer.status_code == 413:
            raise ResourceError(
                f"uploading {label}: {self.url} takes no file of {size(layer.size_bytes)} (413 {reason})",
                hint="raise the limit of the proxy before it (nginx: client_max_body_size 0), or publish to store:DIR there",
            )
        self._raise_if_full(f"uploading {label}", reason)
        raise_if_passing(answer, reason)
        raise self.failed(f"uploading {label}", f"{answer.status_code} {reason}")

    def create(self, package: Package, model: Model, name: ModelName) -> None:
        """Make a model of an uploaded file and the package's texts."""

        def create() -> str:
            status = ""
            for part in self.client.create(
                str(name),
                files={model.file.name: model.layers[0].digest},
                template=package.template,
                system=package.system or None,
                license=list(package.licences),
                parameters=package.parameters,
                stream=True,
            ):
                status = part.status or status
                progress.update(f"{model.file.name}: {status}", part.completed, part.total)
            return status

        status = self.told(f"creating {model.file.name}", create)
        if status != "success":
            raise self.failed(f"creating {model.file.name}", f"it ended with {status!r}")

    def rendered_prompt(self, model: ModelName, messages: Sequence[Message]) -> str | None:
        """The prompt that the server makes of a conversation; None where it does not tell."""
        asked = {"model": str(model), "messages": messages, "stream": False, "_debug_render_only": True,
                 "options": {"num_predict": 1}}  # fmt: skip
        answer = self.told("rendering a prompt", lambda: self.http.post("/api/chat", json=asked))
        if not answer.is_success:
            raise self.failed("rendering a prompt", error_in(answer.text))
        told = _table(answer.text).get("_debug_info")
        prompt = told.get("rendered_template") if isinstance(told, dict) else None
        return prompt if isinstance(prompt, str) else None

    def copy(self, source: ModelName, name: ModelName) -> None:
        self.told(f"naming {name}", lambda: self.client.copy(str(source), str(name)))

    def account(self) -> str | None:
        """Who is signed in at the hub; None where that cannot be known. Raises InputError where nobody is."""
        answer = self.told("asking who is signed in", lambda: self.http.post("/api/me"))
        if answer.status_code == 401:
            raise self._unauthorized(_table(answer.text).get("signin_url"))
        name = _table(answer.text).get("name") if answer.is_success else None
        return name if isinstance(name, str) and name else None

    def push(self, name: ModelName) -> None:
        """Push one tag to the hub, which is not sent what it has; retried until it is there."""
        patience = Patience(f"pushing {name}")
        done: dict[str, int] = {}
        while True:
            try:
                return self._push_once(name, done)
            except httpx.ConnectError:
                raise self._absent() from None
            except (httpx.RequestError, *NOT_OLLAMA) as fault:
                patience.wait(fault, sum(done.values()))
            except ollama.ResponseError as error:
                told = str(error.error)
                self._raise_if_refused(name, told, error.status_code)
                patience.wait(Passing(told), sum(done.values()))

    def _push_once(self, name: ModelName, done: dict[str, int]) -> None:
        """`done` collects by layer how many bytes have arrived, over all attempts."""
        status = ""
        for part in self.client.push(str(name), stream=True):
            status = part.status or status
            if part.digest and part.completed:
                done[part.digest] = max(done.get(part.digest, 0), part.completed)
            shown = f"{part.digest[7:19]} {size(part.completed or 0)}" if part.digest else status
            progress.update(f"{name}: {shown}", part.completed, part.total)
        if status != "success":
            raise ollama.ResponseError(f"it ended with {status!r}")

    def _raise_if_refused(self, name: ModelName, told: str, status: int) -> None:
        """The server streams the hub's refusals as texts, with status -1; what it refuses itself has a status."""
        if re.search(r"unauthorized|not authorized|authentication|signed in|\b401\b", told, re.IGNORECASE):
            raise self._unauthorized()
        if re.search(r"denied|forbidden|\b403\b", told, re.IGNORECASE):
            raise InputError(f"the hub refuses {name}: {told}", hint=f"is {name.namespace} your own name there?")
        if (400 <= status < 500 and status not in PASSING_STATUS) or re.search(
            r"\b413\b|too large", told, re.IGNORECASE
        ):
            raise self.failed(f"pushing {name}", told)

    def _unauthorized(self, sign_in: str | None = None) -> InputError:
        return InputError(
            f"the Ollama server at {self.url} may not push: the hub does not know its key",
            hint=f"sign in on its machine ({sign_in or 'ollama signin'}), or add its public key ({PUBLIC_KEY})"
            " at https://ollama.com/settings/keys",
        )

    def told(self, work: str, action: Callable[[], Result]) -> Result:
        """The result of `action`; what it raises is said to people."""
        try:
            return action()
        except ollama.ResponseError as error:
            self._raise_if_full(work, str(error.error))
            raise self.failed(work, str(error.error)) from None
        except (httpx.ConnectError, ConnectionError):
            raise self._absent() from None
        except httpx.RequestError as error:
            raise self.failed(work, f"the connection was lost ({error or type(error).__name__})") from None
        except NOT_OLLAMA:
            raise self.failed(work, "its answer is not one of Ollama's") from None

    def failed(self, work: str, told: str) -> ResourceError:
        hint = "the server's log says more; then run the same command again"
        return ResourceError(f"{work} failed at {self.url}: {told}", hint=hint)

    def _raise_if_full(self, work: str, told: str) -> None:
        if "no space left" in told.lower():
            hint = "free some space there (ollama list, ollama rm); nothing was published"
            raise ResourceError(f"{work}: the disk of the server at {self.url} is full ({told})", hint=hint)

    def _absent(self) -> ResourceError:
        hint = "start it (ollama serve), name another (ollama:http://HOST:11434), or publish to store:DIR without one"
        return ResourceError(f"no Ollama server answers at {self.url}", hint=hint)


def _pieces(layer: Layer, label: str) -> Iterator[bytes]:
    assert not isinstance(layer.source, bytes)
    done = 0
    with layer.source.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece
            done += len(piece)
            progress.update(f"{label}: {size(done)} sent", done, layer.size_bytes)


def error_in(text: str) -> str:
    """What a server says in the body of an error."""
    return str(_table(text).get("error") or text)[:300]


def _table(text: str) -> Mapping[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
