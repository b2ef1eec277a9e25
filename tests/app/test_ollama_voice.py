"""Models of an Ollama server, through the official client, against a server of ours."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.conversation import Answer, Sampling
from app.ollama_voice import OllamaVoice, open_ollama_voices
from app.voices import Voices
from medllama.errors import InputError, ResourceError
from tests.app.ollama_server import OllamaServer, ollama_server
from tests.app.serving import served
from tests.loopback import LoopbackHandler, serving


class Babbling(LoopbackHandler):
    """A server of something else."""

    def do_POST(self) -> None:
        self.answer(200, b"<html>", {"Content-Type": "text/html"})


@pytest.fixture
def server() -> Iterator[OllamaServer]:
    with ollama_server() as running:
        yield running


@pytest.fixture
def voices(server: OllamaServer) -> Iterator[Voices]:
    with open_ollama_voices(["base", "tuned"], server.url) as opened:
        yield opened


def question(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]


def answers(voices: Voices, text: str, **given: Any) -> list[Answer]:
    return list(voices[1].answer(question(text), Sampling(0.5, 0.9, 7, 100), **given))


def test_an_answer_streams_with_the_settings_of_the_page(voices: Voices, server: OllamaServer) -> None:
    states = [it for it in answers(voices, "Gout?") if it.text]
    assert [it.text for it in states[:2]] == ["tuned1", "tuned1 tuned2"]
    last = states[-1]
    assert (last.text, last.stop) == ("tuned1 tuned2 tuned3 tuned4 tuned5", "end")
    assert (last.tokens, last.prompt_tokens) == (5, 12)
    assert last.first_token_seconds is not None
    assert last.tokens_per_second == pytest.approx(20), "5 tokens in the server's own 0.25 s"
    (asked,) = server.asked
    assert (asked["model"], asked["messages"]) == ("tuned", question("Gout?"))
    assert asked["options"] == {"temperature": 0.5, "top_p": 0.9, "seed": 7, "num_predict": 100}


def test_the_prompt_is_what_the_server_renders(voices: Voices, server: OllamaServer) -> None:
    assert voices[0].read(question("Gout?</s>")).pieces == (("<system>Be brief.<user>Gout?</s>", False),)
    assert server.asked == [], "nothing is computed for it"
    assert voices[0].read(question("an old server")).pieces == (("(this Ollama server does not say)", False),)
    assert server.asked[0]["options"] == {"num_predict": 1}, "a server that does not know the question answers little"


def test_an_answer_is_cut_at_its_limit_and_stops_when_asked_to(voices: Voices, server: OllamaServer) -> None:
    cut = list(voices[0].answer(question("endless"), Sampling(max_tokens=20)))[-1]
    assert cut.stop == "length"
    seen: list[Answer] = []
    for state in voices[0].answer(question("endless"), Sampling(max_tokens=9999), lambda: len(seen) >= 3):
        seen.append(state)
    assert (seen[-1].stop, len(seen)) == ("stopped", 4)
    until = time.monotonic() + 5
    while not server.left and time.monotonic() < until:
        time.sleep(0.02)
    assert server.left == ["endless"], "the server is told, and need not compute on"


def test_a_server_that_says_nothing_keeps_nobody(voices: Voices, server: OllamaServer) -> None:
    """The others answer meanwhile, and whoever stops or is out of time is let go."""
    stalled = voices[0].answer(question("stall"), Sampling(), lambda: bool(server.left))
    assert next(stalled).stop is None
    server.left.append("somebody")
    assert [it.stop for it in stalled][-1] == "stopped"
    server.gate.set()
    assert answers(voices, "Gout?")[-1].stop == "end"


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("break", InputError, "the Ollama server refused tuned: the model runner stopped"),
        ("vanish", ResourceError, "the Ollama server ended tuned's answer before its end"),
        ("babble", ResourceError, "the Ollama server does not answer as one does: "),
    ],
)
def test_an_answer_that_breaks_off_is_told(voices: Voices, text: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        answers(voices, text)


def test_a_server_or_a_model_that_is_not_there_is_named(server: OllamaServer) -> None:
    with open_ollama_voices(["nobody", "tuned"], server.url) as voices:
        assert voices[0].missing.startswith("The Ollama server cannot show nobody: model 'nobody' not found")
        assert next(voices[0].answer(question("Gout?"), Sampling())).stop == "failed"
        assert answers(voices, "Gout?")[-1].stop == "end"
    with serving(Babbling) as other, pytest.raises(ResourceError, match=f"what answers at http://{other} is no Ollama"):  # noqa: SIM117
        with open_ollama_voices(["base"], f"http://{other}"):
            pass
    with pytest.raises(InputError, match="cannot show nobody"), open_ollama_voices(["nobody"], server.url):
        pass
    with pytest.raises(ResourceError, match=r"no Ollama server answers at http://127\.0\.0\.1:9"):  # noqa: SIM117
        with open_ollama_voices(["base"], "http://127.0.0.1:9"):
            pass


def test_a_model_is_known_by_the_servers_digest_of_it(voices: Voices) -> None:
    assert [voice.digest for voice in voices if isinstance(voice, OllamaVoice)] == ["base" * 16, "tuned" * 16]


def test_a_model_that_is_computed_elsewhere_is_not_called_offline(server: OllamaServer) -> None:
    given = ("--backend", "ollama", "--ollama-host", server.url, "--model", "base", "--model")
    for model, said in (("tuned", "It runs offline"), ("far", "Questions go to models.example")):
        with served(*given, model) as app:
            page = httpx.get(f"{app.url}config", timeout=30).text
            assert [it in page for it in ("It runs offline", "Questions go to models.example")].count(True) == 1
            assert said in page


def test_the_app_serves_the_models_of_an_ollama_server(server: OllamaServer) -> None:
    given = ("--backend", "ollama", "--ollama-host", server.url, "--model", "base", "--model", "tuned")
    with served(*given) as app:
        body = {"messages": [{"role": "user", "content": "Gout?"}]}
        found = httpx.post(f"{app.url}compare", json=body, timeout=30).json()["answers"]
        assert [(it["model"], it["text"].split()[0]) for it in found] == [("base", "base1"), ("tuned", "tuned1")]
        assert app.beyond() == []
