"""What answers the page and the API alike: the models behind one fair line, each asking bounded in time.

    async for state in engine.ask("somebody", {0: messages, 1: messages}, Sampling()):
        ...                               # Waiting(3), then the answers as they grow, the last ones with `stop` set

Who goes away is told by closing the generator, or by `is_gone`; the models then stop after the step that they compute.
"""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import anyio
import anyio.to_thread

from app.conversation import Answer, Askable, Sampling, one_after_another, side_by_side
from app.line import Line
from app.voices import Voices
from medllama.chat import Message
from medllama.errors import MedllamaError

STATE_SECONDS = 0.05  # between two states of the same answers
POLL_SECONDS = 0.02
TELL_SECONDS = 0.5  # between two words to somebody who waits


@dataclass(frozen=True)
class Waiting:
    """So many others are answered first."""

    ahead: int


class Engine:
    """The models, and the line before them."""

    def __init__(self, voices: Voices, *, max_seconds: float, line: Line | None = None) -> None:
        self.voices = voices
        self.max_seconds = max_seconds
        self.line = Line() if line is None else line

    async def ask(
        self,
        who: str,
        asked: Mapping[int, Sequence[Message]],
        sampling: Sampling,
        is_gone: Callable[[], bool] = lambda: False,
    ) -> AsyncIterator[Waiting | list[Answer]]:
        """Wait for one's turn, then the answers of the voices that `asked` numbers, in its order.

        Raises InputError where a conversation does not fit, and LineFull, both at once; what fails later stands in the answer.
        """
        place = self.line.join(who)
        try:
            await anyio.to_thread.run_sync(self._check, asked)
            told = -TELL_SECONDS
            while ahead := self.line.ahead(place):
                if is_gone():
                    yield [Answer(stop="stopped") for _ in asked]
                    return
                if time.monotonic() - told >= TELL_SECONDS:
                    told = time.monotonic()
                    yield Waiting(ahead)
                await anyio.sleep(POLL_SECONDS)
            async for answers in self._answers(asked, sampling, is_gone):
                yield answers
        finally:
            self.line.leave(place)

    def _check(self, asked: Mapping[int, Sequence[Message]]) -> None:
        for number, messages in asked.items():
            self.voices[number].check(messages)

    async def _answers(
        self, asked: Mapping[int, Sequence[Message]], sampling: Sampling, is_gone: Callable[[], bool]
    ) -> AsyncIterator[list[Answer]]:
        until = time.monotonic() + self.max_seconds
        is_left = False

        def is_late() -> bool:
            return time.monotonic() >= until

        def should_stop() -> bool:
            return is_left or is_gone() or is_late()

        streams = [
            surviving(self.voices[number], messages, sampling, should_stop) for number, messages in asked.items()
        ]
        together = one_after_another if self.voices.take_turns else side_by_side
        growing = together(streams)
        try:
            while True:
                answers = await anyio.to_thread.run_sync(newest, growing)
                if answers is None:
                    return
                if is_late() and not is_gone():
                    answers = [dataclasses.replace(it, stop="time") if it.stop == "stopped" else it for it in answers]
                yield answers
        finally:
            is_left = True


def surviving(
    voice: Askable, messages: Sequence[Message], sampling: Sampling, should_stop: Callable[[], bool]
) -> Iterator[Answer]:
    """The answers of a voice; where it fails, its last one says so, and the other voices go on."""
    answer = Answer()
    try:
        for answer in voice.answer(messages, sampling, should_stop):
            yield answer
    except MedllamaError as error:
        yield dataclasses.replace(answer, stop="failed", error=error.sentence)
    except Exception:  # whatever it is, the server lives
        traceback.print_exc()
        yield dataclasses.replace(
            answer, stop="failed", error="The model failed; the terminal that runs medllama says why."
        )


def newest(growing: Iterator[list[Answer]]) -> list[Answer] | None:
    """The answers after the next steps; None when all have ended. The first states and the last are never skipped."""
    started = time.monotonic()
    answers = None
    for answers in growing:
        is_first_token = any(answer.tokens == 1 for answer in answers)
        if is_first_token or time.monotonic() - started >= STATE_SECONDS or all(answer.stop for answer in answers):
            break
    return answers
