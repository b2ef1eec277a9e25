"""The models that can be asked: side by side in memory where they fit, in turn where they do not.

    with open_voices([Path("base.gguf"), Path("tuned.gguf")], context_tokens=4096) as voices:
        voices.take_turns     # True: each is loaded when it is asked, after the one before it has left

A base with an adapter is two voices on one set of weights: the second adds the adapter, its cache and what it computes in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from app.conversation import Answer, Askable, Reader, Reading, Sampling, Voice
from medllama import progress
from medllama.chat import Chat, Message
from medllama.errors import InputError, MedllamaError, ResourceError
from medllama.gguf_metadata import read_gguf_metadata
from medllama.llamacpp import Context, LlamaCppError, Model

# llama.cpp computes a prompt as fast in batches of 256 as of 512, in half the memory, which each voice has for itself. In batches of
# 128 a prompt of 129 to 190 tokens takes up to a tenth longer.
BATCH_TOKENS = 256


class Voices(list[Askable]):
    """Voices in the order in which they were named. `take_turns`: only one of them is in memory at a time."""

    take_turns = False


@dataclass(frozen=True)
class File:
    """A GGUF that can be asked, and what it is called: no two are called the same."""

    path: Path
    name: str
    chat: Chat
    context_tokens: int


class MissingVoice:
    """A model that could not be opened: asked, it says why, and the others answer."""

    context_tokens: int | None

    def __init__(self, name: str, error: MedllamaError) -> None:
        self.name = name
        self.missing = error.sentence
        self.context_tokens = None

    def check(self, messages: Sequence[Message]) -> None:
        """Nothing can be wrong with what nobody reads."""

    def read(self, messages: Sequence[Message]) -> Reading:
        return Reading(((self.missing, False),), None)

    def answer(
        self, messages: Sequence[Message], sampling: Sampling, should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Answer]:
        yield Answer(stop="failed", error=self.missing)


class VoiceInTurn(Reader):
    """A model that is loaded when it is asked, once the one before it has left the memory. What it reads is always known."""

    def __init__(self, file: File, vocabulary: Model, seat: Seat) -> None:
        super().__init__(file.name, vocabulary, file.chat, file.context_tokens)
        self.file = file
        self._seat = seat

    def answer(
        self, messages: Sequence[Message], sampling: Sampling, should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Answer]:
        """As `Voice.answer`. The time to load is nobody's first token."""
        yield from self._seat.take(self).answer(messages, sampling, should_stop)


class Seat:
    """Room in memory for one model at a time."""

    def __init__(self, threads: int | None) -> None:
        self._threads = threads
        self._taken = contextlib.ExitStack()
        self._sitting: tuple[VoiceInTurn, Voice] | None = None

    def take(self, asked: VoiceInTurn) -> Voice:
        """The model in memory, instead of the one that was there before."""
        if self._sitting is None or self._sitting[0] is not asked:
            self.leave()
            if not asked.file.path.is_file():
                raise InputError(f"{asked.file.path} is no longer there", hint="put it back, and ask again")
            require_memory(asked.file.path.stat().st_size, asked.name)
            self._sitting = (asked, open_voice(self._taken, asked.file, self._threads))
        return self._sitting[1]

    def leave(self) -> None:
        """Free the memory."""
        self._sitting = None
        self._taken.close()


@contextlib.contextmanager
def open_voices(
    paths: Sequence[Path],
    *,
    context_tokens: int,
    adapter: Path | None = None,
    threads: int | None = None,
    may_be_missing: bool = False,
) -> Iterator[Voices]:
    """The models of these files, and the first one with an adapter, which adds its own weights and cache alone.

    Raises InputError for what is no GGUF or cannot be asked, ResourceError where the memory does not suffice. With
    `may_be_missing` one of several that cannot be opened is a voice that says so.
    """
    if adapter is not None and not adapter.is_file():
        raise InputError(f"{adapter} does not exist", hint="medllama convert --adapter-only makes adapters as GGUF")
    names = distinct([path.stem for path in (*paths, *([adapter] if adapter else []))])
    files, missing = look_at(paths, names, context_tokens)
    if missing and not (files and may_be_missing):
        raise next(iter(missing.values()))
    with contextlib.ExitStack() as opened:
        voices = Voices()
        try:
            voices.extend(open_together(opened, files, adapter, names[-1], threads, may_be_missing=may_be_missing))
        except ResourceError as error:
            if len(files) < 2:
                raise
            progress.message(f"{error.message}: the models take turns")
            voices.extend(open_in_turn(opened, files, threads))
            voices.take_turns = True
        for number, problem in missing.items():
            voices.insert(number, MissingVoice(names[number], problem))
        yield voices


def look_at(
    paths: Sequence[Path], names: Sequence[str], context_tokens: int
) -> tuple[list[File], dict[int, MedllamaError]]:
    """The files that can be asked, and by its number what is wrong with each other one."""
    files, missing = [], {}
    for number, (path, name) in enumerate(zip(paths, names, strict=False)):
        try:
            known = read_gguf_metadata(path)
            if known.chat is None:
                raise InputError(
                    f"{path} has no chat template, so nothing can be asked of it",
                    hint="convert it with --chat-template llama2, llama3 or a Jinja file",
                )
            files.append(File(path, name, known.chat, min(context_tokens, known.context_length)))
        except MedllamaError as error:
            missing[number] = error
    return files, missing


def open_together(
    opened: contextlib.ExitStack,
    files: Sequence[File],
    adapter: Path | None,
    adapter_name: str,
    threads: int | None,
    *,
    may_be_missing: bool,
) -> list[Askable]:
    """All of them in memory. Raises ResourceError where they do not fit, and leaves nothing open then."""
    paths = [file.path for file in files] + ([adapter] if adapter else [])
    require_memory(sum(path.stat().st_size for path in paths), "the models")
    voices: list[Askable] = []
    with contextlib.ExitStack() as trying:
        for file in files:
            try:
                voices.append(open_voice(trying, file, threads))
            except LlamaCppError as error:
                if len(files) == 1 or not may_be_missing:
                    raise
                voices.append(MissingVoice(file.name, error))
        if adapter is not None:
            base = voices[0]
            assert isinstance(base, Voice), "an adapter comes with one file, and that file is open"
            lora = base.model.load_adapter(adapter)
            voices.append(on_model(trying, replace(files[0], name=adapter_name), base.model, lora))
        opened.push(trying.pop_all())
    return voices


def open_in_turn(opened: contextlib.ExitStack, files: Sequence[File], threads: int | None) -> list[VoiceInTurn]:
    """None of them in memory yet. Raises ResourceError where the largest does not fit even alone."""
    require_memory(max(file.path.stat().st_size for file in files), "the largest model")
    seat = Seat(threads)
    opened.callback(seat.leave)
    return [VoiceInTurn(file, opened.enter_context(Model(file.path, vocab_only=True)), seat) for file in files]


def open_voice(opened: contextlib.ExitStack, file: File, threads: int | None) -> Voice:
    """A model in memory with a cache of its own."""
    return on_model(opened, file, opened.enter_context(Model(file.path, threads=threads)))


def on_model(opened: contextlib.ExitStack, file: File, model: Model, lora: Any = None) -> Voice:
    """A cache on a model that is in memory, and an adapter that applies to this voice alone."""
    needed_bytes = file.context_tokens * model.cache_bytes_per_token
    require_memory(needed_bytes, f"the cache of {file.name} for {file.context_tokens:,} tokens")
    context = opened.enter_context(
        Context(model, context_tokens=file.context_tokens, batch_tokens=BATCH_TOKENS, exact=False, most_rows=1)
    )
    context.set_adapter(lora)
    return Voice(file.name, model, file.chat, context)


def distinct(names: Sequence[str]) -> list[str]:
    """The names, those that were there before with a number: two folders may hold a `model-Q4_K_M.gguf` each."""
    given: list[str] = []
    for name in names:
        others = (f"{name}-{number}" for number in range(2, len(names) + 2))
        given.append(name if name not in given else next(it for it in others if it not in given))
    return given


def require_memory(needed_bytes: int, purpose: str) -> None:
    """Raise ResourceError where less memory is free: the system would end the process, or stand still."""
    import psutil

    free_bytes = psutil.virtual_memory().available
    if needed_bytes > free_bytes:
        raise ResourceError(
            f"{purpose}: {needed_bytes / 1e6:,.1f} MB of memory are needed, {free_bytes / 1e6:,.1f} MB are free",
            hint="close other programs, take smaller files (Q4_K_M), or lower --context-tokens",
        )
