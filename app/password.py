"""Who may use a page that others can reach: one password, for the page's own form and for every request of the API.

Wrong ones are counted for each address. After MOST_WRONG none of that address is looked at, until the first is FORGOTTEN_SECONDS
old: a password of 8 characters cannot be guessed at that pace.
"""

from __future__ import annotations

import base64
import ipaddress
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from pathlib import Path

from fastapi import Request

from app.api_errors import ApiError
from app.guard import asking_address
from medllama.errors import InputError
from medllama.files import read_text

USER = "medllama"
MOST_WRONG = 10
FORGOTTEN_SECONDS = 300
MOST_ADDRESSES = 10_000
LOGIN_NOTE = (
    f"The user is {USER}, the password is with whoever started this server. After {MOST_WRONG} wrong ones none is taken "
    f"for {FORGOTTEN_SECONDS // 60} minutes."
)


class Door:
    """The password, and who has been wrong about it lately."""

    def __init__(self, password: str, now: Callable[[], float] = time.monotonic) -> None:
        self._password = password.encode()
        self._now = now
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()  # who was wrong last stands last

    def seconds_closed(self, address: str) -> float:
        """For how long nothing of this address is looked at; 0 where it may try."""
        times = self._wrong.get(neighborhood(address), deque())
        return max(0.0, times[0] + FORGOTTEN_SECONDS - self._now()) if len(times) == MOST_WRONG else 0.0

    def opens(self, given: str, address: str) -> bool:
        """Whether this is the password, and the address may try."""
        if self.seconds_closed(address):
            return False
        if secrets.compare_digest(given.encode(errors="replace"), self._password):
            return True
        who = neighborhood(address)
        self._wrong.setdefault(who, deque(maxlen=MOST_WRONG)).append(self._now())
        self._wrong.move_to_end(who)
        if len(self._wrong) > MOST_ADDRESSES:
            self._wrong.popitem(last=False)
        return False

    def login(self, user: str, password: str) -> bool:
        """The page's form, as Gradio asks."""
        return user == USER and self.opens(password, asking_address.get())

    async def check(self, request: Request) -> None:
        """A dependency of routes: the password as a bearer token (OpenAI's clients: `api_key`) or as HTTP basic."""
        address, given = asking_address.get(), given_password(request)
        if given is not None and self.opens(given, address):
            return
        if seconds := self.seconds_closed(address):
            raise ApiError(
                429, "too many wrong passwords came from this address", kind="rate_limit_error", code="too_many_tries",
                headers={"Retry-After": str(int(seconds) + 1)},
            )  # fmt: skip
        raise ApiError(
            401, "the password is missing or wrong", kind="authentication_error", code="invalid_api_key",
            headers={"WWW-Authenticate": 'Basic realm="medllama"'},  # a browser then asks for it
        )  # fmt: skip


def neighborhood(address: str) -> str:
    """What counts as one address: whoever has one of IPv6 has 2**64."""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(known, ipaddress.IPv4Address) or known.ipv4_mapped:
        return address
    return str(ipaddress.ip_network((int(known), 64), strict=False))


def given_password(request: Request) -> str | None:
    """The password that a request brings, if any."""
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip().encode("latin-1").decode(errors="replace")  # as which the server reads every header
    if kind.lower() == "basic":
        try:
            user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
        except ValueError:
            return None
        return password if user == USER else None
    return None


def read_password(path: Path) -> str:
    """The first line of the password file."""
    password = (read_text(path).splitlines() or [""])[0].strip()
    if len(password) < 8:
        raise InputError(f"the first line of {path} is no password of 8 characters or more", hint="write a longer one")
    return password
