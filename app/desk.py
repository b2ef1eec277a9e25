"""What every tab of the page needs: the models, how they are called, the settings, and who is being answered.

A person asks one thing at a time, whatever the tab. A session is one open page; nothing of it outlives the page.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import gradio

from app.config import AppConfig
from app.conversation import Answer, Sampling
from app.engine import Engine, Waiting
from app.render import Speaker, Turn
from medllama.chat import Message
from medllama.errors import MedllamaError

MOST_QUESTION_CHARACTERS = 4000
MOST_TYPED_CHARACTERS = MOST_QUESTION_CHARACTERS + 1  # what is pasted and too long is refused, not cut without a word
MOST_TURNS = 100
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
AT_ONCE = QUIET | {"queue": False}
LONG = QUIET | {"concurrency_limit": None}  # app/line.py decides whose turn it is


@dataclass
class Stop:
    """Whether a session's answer is to end."""

    is_asked: bool = False


@dataclass
class Desk:
    """The models and the sessions."""

    engine: Engine
    config: AppConfig
    speakers: list[Speaker]
    settings: list[Any] = field(default_factory=list)  # system, temperature, top_p, max_tokens, seed
    _stops: dict[str, Stop] = field(default_factory=dict)

    def begin(self, question: str, request: gradio.Request) -> str:
        """The question, if it can be asked now."""
        question = whole(question.strip())
        if not question:
            raise told("Type a question first.")
        if len(question) > MOST_QUESTION_CHARACTERS:
            raise told(f"A question has at most {MOST_QUESTION_CHARACTERS:,} characters.")
        self.occupy(request)
        return question

    def occupy(self, request: gradio.Request) -> None:
        """This session is being answered from now on, until `free`."""
        if session(request) in self._stops:
            raise told("Stop the answer first, or wait for it.")
        self._stops[session(request)] = Stop()

    def free(self, request: gradio.Request) -> None:
        """The session can ask again."""
        self._stops.pop(session(request), None)

    def stop(self, request: gradio.Request) -> None:
        """End the answers of this session after the step that is being computed."""
        if (stop := self._stops.get(session(request))) is not None:
            stop.is_asked = True

    def leave(self, request: gradio.Request) -> None:
        """The page was closed: nobody reads on."""
        self.stop(request)
        self.free(request)

    def stopping(self, request: gradio.Request) -> Callable[[], bool]:
        """Whether this session's answer is to end. A page that was closed in the meantime has ended it."""
        stop = self._stops.get(session(request), Stop(is_asked=True))
        return lambda: stop.is_asked

    def ask(
        self, request: gradio.Request, asked: Mapping[int, Sequence[Message]], sampling: Sampling
    ) -> AsyncIterator[Waiting | list[Answer]]:
        """`Engine.ask` for this session."""
        return self.engine.ask(f"page {session(request)}", asked, sampling, self.stopping(request))

    def sampling(self, temperature: float, top_p: float, max_tokens: float | None, seed: float | None) -> Sampling:
        """The settings of the page; an emptied field is as the server was started."""
        return Sampling(
            temperature,
            top_p,
            self.config.seed if seed is None else int(seed),
            int(max_tokens or self.config.max_tokens),
        )


def session(request: gradio.Request) -> str:
    """The open page that asks."""
    return str(request.session_hash)


def told(message: str) -> gradio.Error:
    """An error that is the person's to mend, and none of the server's."""
    return gradio.Error(escape(message), print_exception=False)


def warn(error: MedllamaError) -> None:
    """Show what is wrong, as text."""
    gradio.Warning(escape(error.sentence))


def whole(text: str) -> str:
    """The text without half a character: a browser may cut an emoji in two where a field is full."""
    return text.encode(errors="replace").decode()


def messages(turns: Sequence[Turn], place: int, system: str, question: str) -> list[dict[str, str]]:
    """What the voice in this place of the turns is asked: its own answers so far, and the question."""
    said = [{"role": "system", "content": whole(system.strip())}] if system.strip() else []
    for turn in turns:
        answer: Answer = turn.answers[place]
        if answer.text and answer.stop != "failed":  # stopped before its first word, it said nothing
            said += [{"role": "user", "content": turn.question}, {"role": "assistant", "content": answer.text}]
    return [*said, {"role": "user", "content": question}]
