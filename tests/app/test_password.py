"""One password for the page and the API, and an end to guessing it. Time is the test's own."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.testclient import TestClient

from app.api_errors import OF_API
from app.guard import Guard
from app.password import FORGOTTEN_SECONDS, MOST_ADDRESSES, MOST_WRONG, Door, given_password, read_password
from medllama.errors import InputError

RIGHT = "correct horse"


class Clock:
    """Seconds that pass when a test says so."""

    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def test_after_too_many_wrong_ones_not_even_the_right_one_opens_until_they_are_forgotten() -> None:
    clock = Clock()
    door = Door(RIGHT, clock)
    for _ in range(MOST_WRONG):
        assert door.opens(RIGHT, "192.0.2.1"), "who is right now and then is no guesser"
        assert not door.opens("guess", "192.0.2.1")
        clock.seconds += 1
    assert door.seconds_closed("192.0.2.1") == FORGOTTEN_SECONDS - MOST_WRONG
    assert not door.opens(RIGHT, "192.0.2.1")
    assert door.opens(RIGHT, "192.0.2.2"), "others are not kept waiting"
    clock.seconds += FORGOTTEN_SECONDS - MOST_WRONG
    assert not door.opens("guess", "192.0.2.1"), "one is forgotten, one more may be tried"
    assert not door.opens(RIGHT, "192.0.2.1")
    clock.seconds += FORGOTTEN_SECONDS
    assert door.opens(RIGHT, "192.0.2.1")


def test_a_network_of_ipv6_counts_as_one_address_and_those_of_ipv4_as_themselves() -> None:
    door = Door(RIGHT, Clock())
    for number in range(MOST_WRONG):
        door.opens("guess", f"2001:db8::{number}")
        door.opens("guess", f"::ffff:192.0.2.{number}")
    assert door.seconds_closed("2001:db8::ffff") > 0
    assert door.seconds_closed("2001:db8:0:1::1") == 0
    assert door.seconds_closed("::ffff:192.0.2.1") == 0


def test_what_is_remembered_is_bounded_and_the_newest_is_kept() -> None:
    door = Door(RIGHT, Clock())
    for number in range(MOST_ADDRESSES + 1):
        door.opens("guess", f"address {number}")
    assert len(door._wrong) == MOST_ADDRESSES
    assert "address 0" not in door._wrong
    assert f"address {MOST_ADDRESSES}" in door._wrong


def test_the_api_and_the_pages_form_count_together() -> None:
    clock = Clock()
    door = Door(RIGHT, clock)
    api = FastAPI(exception_handlers=OF_API)

    @api.get("/", dependencies=[Depends(door.check)])
    async def hello() -> str:
        return "hello"

    @api.get("/login")
    async def login(password: str) -> bool:
        return door.login("medllama", password)

    client = TestClient(Guard(api, is_local=False))

    def status(password: str) -> int:
        return client.get("/", headers={"authorization": f"Bearer {password}"}).status_code

    assert client.get("/").status_code == 401
    assert status(RIGHT) == 200
    for _ in range(MOST_WRONG // 2):
        assert status("guess") == 401
        assert client.get("/login", params={"password": "guess"}).json() is False
        assert client.get("/").status_code in (401, 429), "no password is no guess"
    refused = client.get("/", headers={"authorization": f"Bearer {RIGHT}"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_tries")
    assert refused.headers["retry-after"] == str(FORGOTTEN_SECONDS + 1)
    assert client.get("/login", params={"password": RIGHT}).json() is False
    clock.seconds += FORGOTTEN_SECONDS
    assert status(RIGHT) == 200
    assert client.get("/login", params={"password": RIGHT}).json() is True


@pytest.mark.parametrize("kind", ["Bearer", "bearer "])
def test_a_password_has_any_letters(kind: str) -> None:
    request = Request({"type": "http", "headers": [(b"authorization", f"{kind} größer als 8".encode())]})
    assert given_password(request) == "größer als 8"


def test_basic_takes_the_password_with_its_user_alone() -> None:
    def given(user: str) -> str | None:
        encoded = base64.b64encode(f"{user}:{RIGHT}".encode())
        return given_password(Request({"type": "http", "headers": [(b"authorization", b"Basic " + encoded)]}))

    assert (given("medllama"), given("someone")) == (RIGHT, None)


@pytest.mark.parametrize("text", ["", "\n", "short\n", "       \nlong enough below"])
def test_a_password_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "password").write_text(text)
    with pytest.raises(InputError, match="is no password of 8 characters or more"):
        read_password(tmp_path / "password")
