"""Voices of an Ollama server that runs already: `medllama app --backend ollama --model base --model tiny`.

The server loads, renders the prompt and computes; what a person types is as safe there as its TEMPLATE makes it. This follows
the official client; the exact prompt comes from the server's `_debug_render_only`, which the client does not know.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import httpx
import ollama

from app.conversation import Answer, Reading, Sampling
from app.voices import MissingVoice, Voices
from medllama.chat import Message
from medllama.errors import InputError, MedllamaError, ResourceError

TIMEOUT = httpx.Timeout(10.0, read=600.0)  # a model may have to be loaded first
WAIT_SECONDS = 0.02  # for a server that says nothing, before the other voices have their turn


@contextlib.contextmanager
def open_ollama_voices(models: Sequence[str], host: str) -> Iterator[Voices]:
    """The models of these names. Raises ResourceError where no server answers, InputError where it has none of them."""
    with contextlib.closing(ollama.Client(host=host, timeout=TIMEOUT)) as client:
        voices, missing = Voices(), []
        for name in models:
            try:
                client.show(name)
                digests = {it.model: it.digest for it in client.list().models}
                digest = digests.get(name) or digests.get(f"{name}:latest")
                voices.append(OllamaVoice(name, client, host, digest, remote_host(name, host)))
            except ollama.ResponseError as error:
                missing.append(no_model(name, error))
                voices.append(MissingVoice(name, missing[-1]))
            except (ConnectionError, httpx.HTTPError) as error:
                raise ResourceError(f"no Ollama server answers at {host}: {error}", hint="ollama serve") from None
            except ValueError as error:
                raise ResourceError(
                    f"what answers at {host} is no Ollama server: {error}", hint="ollama serve"
                ) from None
        if len(missing) == len(models):
            raise missing[0]
        yield voices


def no_model(name: str, error: ollama.ResponseError) -> MedllamaError:
    """What is wrong with a model that the server does not show."""
    return InputError(f"the Ollama server cannot show {name}: {error.error}", hint="ollama list names its models")


def remote_host(name: str, host: str) -> str:
    """The other machine to which the server passes what this model is asked (a cloud model); empty where it computes itself."""
    told = httpx.post(f"{host.rstrip('/')}/api/show", json={"model": name}, timeout=TIMEOUT).json().get("remote_host")
    return (urlsplit(told).hostname or told) if isinstance(told, str) else ""


class OllamaVoice:
    """A model of the server; `digest` is that of its manifest there, `elsewhere` the machine that computes it in its stead."""

    missing = ""
    context_tokens = None

    def __init__(self, name: str, client: ollama.Client, host: str, digest: str | None, elsewhere: str) -> None:
        self.name = name
        self.digest = digest
        self.elsewhere = elsewhere
        self._client = client
        self._host = host.rstrip("/")

    def check(self, messages: Sequence[Message]) -> None:
        """The server cuts what does not fit."""

    def read(self, messages: Sequence[Message]) -> Reading:
        """The prompt as the server renders it, without knowing which of it are control tokens."""
        body = {
            "model": self.name, "messages": list(map(dict, messages)), "stream": False, "_debug_render_only": True,
            "options": {"num_predict": 1},  # an older server does not know the question, and answers
        }  # fmt: skip
        try:
            told = httpx.post(f"{self._host}/api/chat", json=body, timeout=10.0).raise_for_status().json()
            return Reading(((str(told["_debug_info"]["rendered_template"]), False),), None)
        except (httpx.HTTPError, KeyError, TypeError, ValueError):
            return Reading((("(this Ollama server does not say)", False),), None)

    def answer(
        self, messages: Sequence[Message], sampling: Sampling, should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Answer]:
        """As `Voice.answer`, a state per piece that the server sends, and one now and then while it sends nothing. Its own counts
        and seconds stand in the last: while other voices have their turn here, it computes on."""
        started = time.perf_counter()
        answer, text = Answer(), ""
        with self._heard(messages, sampling) as heard:
            while answer.stop is None:
                try:
                    part, at = heard.get(timeout=WAIT_SECONDS)
                except queue.Empty:
                    part, at = None, time.perf_counter()
                if isinstance(part, Exception):
                    raise self._fault(part) from None
                if part is not None:
                    text += part.message.content or ""
                    answer = replace(answer, text=text.strip(), tokens=answer.tokens + 1, seconds=at - started)
                    if answer.first_token_seconds is None:
                        answer = replace(answer, first_token_seconds=answer.seconds)
                if part is not None and part.done:
                    answer = ended(answer, part)
                elif should_stop():
                    answer = replace(answer, stop="stopped")
                yield answer

    @contextlib.contextmanager
    def _heard(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[queue.SimpleQueue[tuple[Any, float]]]:
        """What the server says, each with its time, the last an exception where it ends too early. A thread of its own listens, for
        nobody could go away while a server says nothing."""
        heard: queue.SimpleQueue[tuple[Any, float]] = queue.SimpleQueue()
        is_left = threading.Event()

        def listen() -> None:
            try:
                stream: Any = self._client.chat(
                    self.name, list(messages), stream=True,
                    options={
                        "temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed,
                        "num_predict": sampling.max_tokens,
                    },
                )  # fmt: skip
                with contextlib.closing(stream):
                    for part in stream:
                        heard.put((part, time.perf_counter()))
                        if part.done or is_left.is_set():
                            return
                raise EOFError
            except Exception as error:
                heard.put((error, time.perf_counter()))

        threading.Thread(target=listen, daemon=True).start()
        try:
            yield heard
        finally:
            is_left.set()

    def _fault(self, error: Exception) -> Exception:
        """What an answer that breaks off is told as."""
        if isinstance(error, ollama.ResponseError):
            return InputError(f"the Ollama server refused {self.name}: {error.error}", hint="its own log says more")
        if isinstance(error, EOFError):
            return ResourceError(f"the Ollama server ended {self.name}'s answer before its end", hint="ask again")
        if isinstance(error, ConnectionError | httpx.HTTPError):
            return ResourceError(f"the Ollama server does not answer: {error}", hint="ollama serve")
        if isinstance(error, ValueError):
            return ResourceError(
                f"the Ollama server does not answer as one does: {error}", hint="its own log says more"
            )
        return error


def ended(answer: Answer, last: Any) -> Answer:
    """The answer with the server's own figures, which come with its last piece."""
    seconds = answer.seconds
    if last.eval_duration:  # nanoseconds
        seconds = (answer.first_token_seconds or 0.0) + last.eval_duration / 1e9
    return replace(
        answer, stop="length" if last.done_reason == "length" else "end", seconds=seconds,
        tokens=last.eval_count or answer.tokens, prompt_tokens=last.prompt_eval_count or 0,
    )  # fmt: skip
