"""What an OCI registry asks for at the door: a bearer token from its token server, or user and password.

The registry answers 401 and says how it wants to be asked (WWW-Authenticate); the request is then sent again. User and password come
from MEDLLAMA_REGISTRY_USER and MEDLLAMA_REGISTRY_PASSWORD, else from what `docker login` has stored in its config.json.
They are sent to nobody but the registry and the token server that it names, and never in the clear over a network.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import re
from collections.abc import Generator
from typing import Any

import httpx

from medllama.errors import InputError
from medllama.files import expand

USER, PASSWORD = "MEDLLAMA_REGISTRY_USER", "MEDLLAMA_REGISTRY_PASSWORD"


class RegistryAuth(httpx.Auth):
    """Answers a registry's challenges. A token that has expired is fetched anew."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.basic = find_credentials(host)
        self.header: str | None = None

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        is_private = request.url.scheme == "https" or is_loopback(request.url.host)
        is_registry = request.url.netloc.decode() == self.host and is_private
        if self.header and is_registry:
            request.headers["Authorization"] = self.header
        response = yield request
        if response.status_code != 401 or not is_registry:
            return
        scheme, fields = parse_challenge(response.headers.get("www-authenticate", ""))
        if scheme == "bearer" and "realm" in fields:
            answer = yield self._token_request(fields)
            token = read_token(answer.status_code, answer.read())
            if token is None:
                return
            self.header = f"Bearer {token}"
        elif scheme == "basic" and self.basic:
            self.header = self.basic
        else:
            return
        request.headers["Authorization"] = self.header
        yield request

    def _token_request(self, fields: dict[str, str]) -> httpx.Request:
        realm = httpx.URL(fields["realm"])
        if realm.scheme != "https" and not is_loopback(realm.host):
            raise InputError(
                f"{self.host} names a token server without encryption: {realm}", hint="ask who runs it for https"
            )
        asked: dict[str, Any] = {key: fields[key] for key in ("service", "scope") if key in fields}
        headers = {"Authorization": self.basic} if self.basic else {}
        return httpx.Request("GET", realm.copy_merge_params(asked), headers=headers)


def read_token(status: int, content: bytes) -> str | None:
    """The token in a token server's answer; None where it gives none."""
    try:
        told = json.loads(content) if status == 200 else None
    except ValueError:
        return None
    token = (told.get("token") or told.get("access_token")) if isinstance(told, dict) else None
    return token if isinstance(token, str) else None


def parse_challenge(header: str) -> tuple[str, dict[str, str]]:
    """`Bearer realm="https://...",service="..."` -> ("bearer", {"realm": ...})."""
    scheme, _, rest = header.partition(" ")
    fields = {
        key.lower(): quoted or plain for key, quoted, plain in re.findall(r'(\w+)=(?:"([^"]*)"|([^",\s]+))', rest)
    }
    return scheme.lower(), fields


def find_credentials(host: str) -> str | None:
    """The Basic header for a host, where somebody has left user and password for it."""
    user, password = os.environ.get(USER), os.environ.get(PASSWORD)
    if user and password:
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    path = expand(os.environ.get("DOCKER_CONFIG", "~/.docker")) / "config.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))["auths"][host]["auth"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return f"Basic {stored}" if isinstance(stored, str) and stored else None


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, which needs no encryption."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
