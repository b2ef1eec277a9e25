"""A conversation with a GGUF: messages in, an answer streamed token by token out. The page and the terminal share this.

    with open_voices([Path("base.gguf"), Path("tuned.gguf")], context_tokens=4096) as voices:    # app/voices.py
        messages = [{"role": "user", "content": "What is gout?"}]
        for answers in side_by_side([voice.answer(messages, Sampling()) for voice in voices]):
            print([answer.text for answer in answers])

What the cache already holds of a prompt is not computed again, so a second turn costs its own tokens alone. A quantized
model's logits depend a little on the batch they are computed in (medllama/llamacpp.py), so the cache is cut back to where a
batch began, never inside one: the same question after the same turns gets the same answer, however often it is asked.

Models that answer side by side take turns, a step each: every time and speed is a model's own, on all threads, as if it were
alone. A text of a person is plain text (medllama/chat.py).
"""

from __future__ import annotations

import codecs
import dataclasses
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from medllama.chat import Chat, Message
from medllama.errors import InputError
from medllama.llamacpp import Context, Model, Sampler
from medllama.tokenizer import common_prefix

# llama.cpp (ggml-cpu/ops.cpp, Q_TILE_SZ) computes the attention of so many tokens together, and of fewer one by one: 28 at the end
# of a prompt of 284 take as long as 100.
ATTENTION_TILE = 64
Stop = Literal["end", "length", "stopped", "time", "failed"]
STOPS: dict[Stop, str] = {
    "end": "ended by itself",
    "length": "cut at the length limit",
    "stopped": "stopped",
    "time": "cut at the time limit",
    "failed": "failed",
}


@dataclass(frozen=True)
class Sampling:
    """How the tokens of an answer are chosen, and after how many it is cut."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    max_tokens: int = 256


@dataclass(frozen=True)
class Answer:
    """An answer as far as it has come; `stop` is None while it goes on, and `error` says why it "failed".

    `seconds` is the time that the model itself took, `first_token_seconds` the part of it up to the first token.
    `reused_tokens` of the prompt were still in the cache.
    """

    text: str = ""
    tokens: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    seconds: float = 0.0
    first_token_seconds: float | None = None
    stop: Stop | None = None
    error: str = ""

    @property
    def tokens_per_second(self) -> float | None:
        """The speed after the first token; None where there is no second one. The token that ends an answer counts."""
        steps = self.tokens - 1 + (self.stop == "end")
        if self.first_token_seconds is None or steps < 1:
            return None
        return steps / (self.seconds - self.first_token_seconds)

    @property
    def figures(self) -> str:
        """One line: time to the first token, tokens, speed, and why it ended."""
        parts = []
        if self.first_token_seconds is not None:
            parts = [
                f"first token {seconds_of(self.first_token_seconds)}",
                f"{self.tokens:,} token{'' if self.tokens == 1 else 's'}",
            ]
        if self.tokens_per_second is not None:
            parts.append(f"{self.tokens_per_second:,.{0 if self.tokens_per_second >= 10 else 1}f} tokens/s")
        if self.stop:
            parts.append(STOPS[self.stop])
        return " · ".join(parts)


@dataclass(frozen=True)
class Reading:
    """What a model reads: its pieces, each a control token or not, and how many tokens they are (None where nobody says)."""

    pieces: tuple[tuple[str, bool], ...]
    tokens: int | None


def seconds_of(seconds: float) -> str:
    """`12 ms` or `1.5 s`."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


class Askable(Protocol):
    """What the page and the API need of a model, wherever it runs. `missing` says why it cannot be asked, where it cannot."""

    name: str
    missing: str

    @property
    def context_tokens(self) -> int | None: ...

    def check(self, messages: Sequence[Message]) -> None:
        """Raises InputError where the conversation does not fit."""

    def read(self, messages: Sequence[Message]) -> Reading: ...

    def answer(
        self, messages: Sequence[Message], sampling: Sampling, should_stop: Callable[[], bool] = ...
    ) -> Iterator[Answer]: ...


class Reader:
    """A model's vocabulary and chat template: what it is given to read. The weights need not be in memory."""

    missing = ""

    def __init__(self, name: str, vocabulary: Model, chat: Chat, context_tokens: int) -> None:
        self.name = name
        self.chat = chat
        self._context_tokens = context_tokens
        self._vocabulary = vocabulary

    @property
    def context_tokens(self) -> int:
        return self._context_tokens

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The ids that ask for the next answer. Raises InputError where they leave no room for one."""
        ids = self.chat.encode(messages, add_generation_prompt=True)
        if len(ids) >= self.context_tokens:
            raise InputError(
                f"the conversation is {len(ids):,} tokens long, and {self.name} sees {self.context_tokens:,}",
                hint="begin a new one, or ask something shorter",
            )
        return ids

    def check(self, messages: Sequence[Message]) -> None:
        """As `prompt`, for those who need no ids."""
        self.prompt(messages)

    def read(self, messages: Sequence[Message]) -> Reading:
        """The prompt as text, in pieces that are control tokens or not: `</s>` typed by a person is not."""
        ids = self.prompt(messages)
        control = set(self.chat.tokenizer.control.values())
        grouped = itertools.groupby(ids, key=lambda token: token if token in control else None)
        pieces = [(self._vocabulary.detokenize(list(it), show_control=True), key is not None) for key, it in grouped]
        return Reading(tuple(pieces), len(ids))


class Voice(Reader):
    """A model that can be asked, with its cache. One answer at a time: a newer one ends what is left of an older one."""

    def __init__(self, name: str, model: Model, chat: Chat, context: Context) -> None:
        super().__init__(name, model, chat, context.context_tokens)
        self.model = model
        self._context = context
        self._end_of_turn = chat.end_of_turn()
        self._cached: list[int] = []  # the ids in the cache
        self._edges: list[int] = []  # where the batches began in which they were computed
        self._newest: object = None  # the answer that may go on
        self._computing = threading.Lock()

    def answer(
        self, messages: Sequence[Message], sampling: Sampling, should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Answer]:
        """The answer as it grows: one state per token (and per batch of the prompt), the last with `stop` set.

        `should_stop` is asked before each step. White space around the text is the template's and left out.
        """
        started = time.perf_counter()
        ids = self.prompt(messages)
        mine = self._newest = object()
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        with self._computing:
            answer = Answer(prompt_tokens=len(ids), reused_tokens=self._keep(ids))
        text = ""
        with Sampler(temperature=sampling.temperature, top_p=sampling.top_p, seed=sampling.seed) as sampler:
            while answer.stop is None:
                with self._computing:
                    is_over = self._newest is not mine or should_stop()
                    token = None if is_over else self._step(ids, sampler)
                seconds = answer.seconds + time.perf_counter() - started
                stop: Stop | None = "stopped" if is_over else None
                if token is not None:
                    if answer.first_token_seconds is None:
                        answer = dataclasses.replace(answer, first_token_seconds=seconds)
                    if self._ends(token):
                        stop = "end"
                    else:
                        ids.append(token)
                        text += decoder.decode(self.model.piece(token))
                        if answer.tokens + 1 == sampling.max_tokens or len(ids) > self.context_tokens:
                            stop = "length"
                if stop:
                    text += decoder.decode(b"", final=True)
                answer = dataclasses.replace(
                    answer, text=text.strip(), tokens=len(ids) - answer.prompt_tokens, seconds=seconds, stop=stop
                )
                yield answer
                started = time.perf_counter()

    def _keep(self, ids: list[int]) -> int:
        """Cut the cache back to what it shares with `ids`, and to the beginning of a batch; how many tokens that leaves."""
        shared = min(common_prefix(self._cached, ids), len(ids) - 1)  # the last one has to be computed: it predicts
        kept = max(edge for edge in (0, *self._edges, len(self._cached)) if edge <= shared)
        self._cached = self._cached[:kept]
        self._edges = [edge for edge in self._edges if edge < kept]
        return kept

    def _step(self, ids: list[int], sampler: Sampler) -> int | None:
        """Compute the next batch of `ids`; the token after them, or None where more of them are left."""
        start = len(self._cached)
        batch = ids[start : start + batch_size(len(ids) - start, self._context.batch_tokens)]
        self._context.truncate(start)  # what follows is of an earlier answer, or of a step that was interrupted
        for _ in self._context.decode(batch, start=start, every=False):
            pass
        self._cached += batch
        self._edges.append(start)
        return sampler.sample(self._context) if len(self._cached) == len(ids) else None

    def _ends(self, token: int) -> bool:
        return token == self._end_of_turn or self.model.is_end(token)


def batch_size(left: int, most: int) -> int:
    """How many of the tokens that are left to compute next, so that no small rest remains: its attention would be slow."""
    rest = left - most
    return most - ATTENTION_TILE if 0 < rest < ATTENTION_TILE < most else min(left, most)


def side_by_side(streams: Sequence[Iterator[Answer]]) -> Iterator[list[Answer]]:
    """The answers of several models as they grow, a step of each in turn until all have ended."""
    answers = [Answer() for _ in streams]
    going = dict(enumerate(streams))
    while going:
        for number, stream in list(going.items()):
            answers[number] = next(stream)
            if answers[number].stop:
                del going[number]
            yield list(answers)


def one_after_another(streams: Sequence[Iterator[Answer]]) -> Iterator[list[Answer]]:
    """The answers of several models as they grow, each whole before the next begins."""
    answers = [Answer() for _ in streams]
    for number, stream in enumerate(streams):
        for answers[number] in stream:
            yield list(answers)
