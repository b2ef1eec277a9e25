"""The engine behind page and API: waits its turn, ends in time, survives a model that fails, and stops when nobody listens."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from app.conversation import Answer, Reading, Sampling
from app.engine import Engine, Waiting
from app.line import Line, LineFull
from app.voices import Voices
from medllama.chat import Message
from medllama.errors import InputError, ResourceError

QUESTION = [{"role": "user", "content": "Gout?"}]


class Counting:
    """A voice that says a number a step, each after a while, the second and later ones not before `gate` is open."""

    missing = ""
    context_tokens = 100

    def __init__(self, name: str, steps: int, *, seconds: float = 0.0, error: Exception | None = None) -> None:
        self.name, self.steps, self.seconds, self.error = name, steps, seconds, error
        self.made = 0
        self.gate = threading.Event()
        self.gate.set()

    def check(self, messages: Sequence[Message]) -> None:
        if messages[-1]["content"] == "too long":
            raise InputError("too long")

    def read(self, messages: Sequence[Message]) -> Reading:
        return Reading((), None)

    def answer(
        self, messages: Sequence[Message], sampling: Sampling, should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Answer]:
        text = ""
        for step in range(1, self.steps + 1):
            time.sleep(self.seconds)
            if step > 1:
                self.gate.wait()
            if self.error and step == 3:
                raise self.error
            if should_stop():
                yield Answer(text, tokens=step - 1, stop="stopped")
                return
            self.made, text = step, f"{text} {step}".strip()
            yield Answer(text, tokens=step, stop="end" if step == self.steps else None)


def engine_of(*voices: Any, max_seconds: float = 60.0, take_turns: bool = False, line: Line | None = None) -> Engine:
    together = Voices(voices)
    together.take_turns = take_turns
    return Engine(together, max_seconds=max_seconds, line=line)


async def collect(engine: Engine, who: str = "a", **given: Any) -> list[Any]:
    """All states of an asking of every voice."""
    asked = dict.fromkeys(range(len(engine.voices)), QUESTION)
    return [state async for state in engine.ask(who, asked, Sampling(), **given)]


@pytest.mark.parametrize(("interval_seconds", "count"), [(0.0, 53), (3600.0, 4)])
def test_the_answers_grow_and_all_end(interval_seconds: float, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.engine.STATE_SECONDS", interval_seconds)
    states = asyncio.run(collect(engine_of(Counting("one", 3), Counting("other", 50))))
    assert states[0][0].text == "1"
    assert [it.stop for it in states[-1]] == ["end", "end"]
    assert states[-1][1].tokens == 50
    assert len(states) == count, "states are told at intervals; at a first token and at the end at once"


def test_a_voice_that_fails_says_so_and_the_other_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    broken = Counting("broken", 5, error=RuntimeError("broken by the test"))
    *_, (failed, whole) = asyncio.run(collect(engine_of(broken, Counting("whole", 5))))
    assert (failed.stop, failed.text) == ("failed", "1 2"), "what it had said stays"
    assert failed.error == "The model failed; the terminal that runs medllama says why."
    assert (whole.stop, whole.text) == ("end", "1 2 3 4 5")
    assert "RuntimeError: broken by the test" in capsys.readouterr().err
    told = Counting("told", 5, error=ResourceError("no memory", hint="close something"))
    *_, (failed,) = asyncio.run(collect(engine_of(told)))
    assert failed.error == "No memory. Hint: close something."


@pytest.mark.parametrize("take_turns", [False, True])
def test_an_answer_ends_at_the_time_limit(take_turns: bool) -> None:
    slow = [Counting(name, 1000, seconds=0.01) for name in ("one", "other")]
    *_, last = asyncio.run(collect(engine_of(*slow, max_seconds=0.2, take_turns=take_turns)))
    assert [it.stop for it in last] == ["time", "time"]


def test_questions_wait_for_each_other_and_are_told_how_many_are_first() -> None:
    voice = Counting("slow", 3)
    voice.gate.clear()
    told: dict[str, list[Any]] = {who: [] for who in "abc"}

    async def ask(engine: Engine, who: str) -> None:
        async for state in engine.ask(who, {0: QUESTION}, Sampling()):
            told[who].append(state)
            if all(told.values()):
                voice.gate.set()

    async def scene() -> None:
        engine = engine_of(voice)
        await asyncio.gather(*(ask(engine, who) for who in told))

    asyncio.run(scene())
    first, second, third = told.values()
    assert not any(isinstance(state, Waiting) for state in first)
    assert second[0] == Waiting(1)
    assert third[0] == Waiting(2)
    assert all(states[-1][0].text == first[-1][0].text for states in (first, second, third))


def test_who_goes_away_is_not_answered_on_and_makes_room() -> None:
    async def scene() -> Engine:
        engine = engine_of(Counting("slow", 1000, seconds=0.01))
        async with aclosing(engine.ask("a", {0: QUESTION}, Sampling())) as states:
            async for _ in states:
                break
        assert len(engine.line) == 0
        made = engine.voices[0].made  # type: ignore[attr-defined]
        await asyncio.sleep(0.1)
        assert engine.voices[0].made == made  # type: ignore[attr-defined]
        return engine

    asyncio.run(scene())


def test_stopping_ends_an_answer_and_a_wait() -> None:
    async def scene() -> None:
        engine = engine_of(Counting("slow", 1000, seconds=0.01))
        stopped = False
        answering = asyncio.create_task(collect(engine, "a", is_gone=lambda: stopped))
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(collect(engine, "b", is_gone=lambda: stopped))
        await asyncio.sleep(0.1)
        stopped = True
        for task in (answering, waiting):
            assert [it.stop for it in (await task)[-1]] == ["stopped"]
        assert len(engine.line) == 0

    asyncio.run(scene())


def test_what_cannot_be_asked_is_refused_before_it_waits() -> None:
    async def scene() -> None:
        engine = engine_of(Counting("one", 3), line=Line(most_waiting=1))
        with pytest.raises(InputError, match="too long"):
            await anext(engine.ask("a", {0: [{"role": "user", "content": "too long"}]}, Sampling()))
        assert len(engine.line) == 0
        place = engine.line.join("b")
        with pytest.raises(LineFull):
            await anext(engine.ask("a", {0: QUESTION}, Sampling()))
        engine.line.leave(place)

    asyncio.run(scene())
