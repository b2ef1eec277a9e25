"""`medllama chat`: a pipe gets the answer and nothing else, a person gets a conversation that Ctrl-C does not end."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.config import ChatConfig
from app.conversation import Answer, Sampling, Voice
from app.terminal import HELP, Conversation
from app.voices import open_voices
from medllama.cli import main
from medllama.llamacpp import Context
from tests.app.serving import REPOSITORY

QUESTION = "Which gland does Graves disease affect?"


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let standard input be a pipe that holds this text."""
    return lambda text: monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def answer_of(path: Path, *questions: str, system: str = "") -> str:
    """What the engine says to the last of these questions, in greedy decoding."""
    messages = [{"role": "system", "content": system}] if system else []
    with open_voices([path], context_tokens=4096, threads=1) as (voice,):
        for question in questions:
            messages.append({"role": "user", "content": question})
            *_, answer = voice.answer(messages, Sampling())
            messages.append({"role": "assistant", "content": answer.text})
    return answer.text


def test_a_pipe_gets_the_answer_alone(
    embedded: list[Path], typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    typed(f"{QUESTION}\n")
    assert main(["chat", "--gguf", str(embedded[0]), "--threads", "1"]) == 0
    assert capsys.readouterr().out == answer_of(embedded[0], QUESTION) + "\n"


def test_what_is_piped_is_one_question_whole(
    embedded: list[Path], typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    typed("/clear is no command here.\nWhat is gout?\n")
    assert main(["chat", "--gguf", str(embedded[0]), "--threads", "1", "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert [it["text"] for it in outcome["answers"]] == [
        answer_of(embedded[0], "/clear is no command here.\nWhat is gout?")
    ]
    assert outcome["answers"][0]["stop"] == "end"


def test_no_question_is_told(
    embedded: list[Path], typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    typed(" \n")
    assert main(["chat", "--gguf", str(embedded[0])]) == 1
    assert capsys.readouterr().err.startswith("error: there is no question\n")


def test_a_models_text_cannot_steer_the_terminal(
    embedded: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = Answer("a\x1b[2J\x07\x9b1m\tb\nc", stop="end")
    monkeypatch.setattr(Voice, "answer", lambda *given: iter([said]))
    with open_voices([embedded[0]], context_tokens=256, threads=1) as (voice,):
        Conversation(voice, ChatConfig(embedded[0])).ask(QUESTION)
    assert capsys.readouterr().out == "a\ufffd[2J\ufffd\ufffd1m\tb\nc\n"


def test_commands_change_the_conversation(embedded: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    with open_voices([embedded[0]], context_tokens=4096, threads=1) as (voice,):
        conversation = Conversation(voice, ChatConfig(embedded[0]))
        conversation.ask(QUESTION)
        conversation.ask("And who treats it?")
        assert conversation.answers[1].text == answer_of(embedded[0], QUESTION, "And who treats it?")
        conversation.command("/system", "You answer briefly.")
        assert conversation.messages == []
        conversation.ask(QUESTION)
        assert conversation.answers[2].text == answer_of(embedded[0], QUESTION, system="You answer briefly.")
        capsys.readouterr()
        for command in (("/system",), ("/clear",), ("/help",), ("/foo", "bar")):
            conversation.command(*command)
        assert conversation.messages == []
    assert capsys.readouterr().err == (
        "You answer briefly.\na new conversation under: You answer briefly.\n"
        f"{HELP}\nthere is no /foo; to ask it, begin with a space\n{HELP}\n"
    )


def test_an_interrupt_stops_the_answer_and_not_the_program(
    embedded: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, steps = Context.decode, []

    def interrupted(self: Context, ids: list[int], **given: int) -> Iterator[object]:
        steps.append(ids)
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        yield from real(self, ids, **given)

    before = signal.getsignal(signal.SIGINT)
    with open_voices([embedded[0]], context_tokens=4096, threads=1) as (voice,):
        conversation = Conversation(voice, ChatConfig(embedded[0]))
        with monkeypatch.context() as patched:
            patched.setattr(Context, "decode", interrupted)
            conversation.ask(QUESTION)
        assert (conversation.answers[0].stop, conversation.answers[0].tokens) == ("stopped", 5)
        conversation.ask(QUESTION)
        assert conversation.answers[1].stop == "end"
    assert signal.getsignal(signal.SIGINT) is before
    assert capsys.readouterr().out.splitlines()[0] == conversation.answers[0].text


def heed_interrupts() -> None:
    """As in a person's terminal: tests that were started in the background would hand on that Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """A program on a terminal of its own, with a person who types."""

    def __init__(self, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "medllama", *arguments],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "TERM": "dumb"}, preexec_fn=heed_interrupts,
        )  # fmt: skip
        os.close(slave)
        self.shown = ""

    def type(self, text: str) -> None:
        self.shown = ""
        os.write(self.master, text.encode())

    def wait_for(self, text: str, seconds: float = 180) -> None:
        """Read on until this has been shown."""
        until = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < until, f"no {text!r} in {self.shown!r}"
            if select.select([self.master], [], [], 0.2)[0]:
                self.shown += os.read(self.master, 4096).decode()


def test_a_person_has_a_conversation_until_ctrl_d(embedded: list[Path]) -> None:
    terminal = Terminal("chat", "--gguf", str(embedded[0]), "--threads", "1")
    try:
        terminal.wait_for("nothing here is medical advice.")
        terminal.wait_for("> ")
        terminal.type(f"{QUESTION}\n")
        terminal.wait_for("ended by itself")
        assert answer_of(embedded[0], QUESTION)[:60] in terminal.shown.replace("\r\n", " ")
        terminal.wait_for("> ")
        terminal.type("half a line")
        terminal.wait_for("half a line")
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for("Ctrl-D or /exit ends")
        terminal.wait_for("> ")
        terminal.type(" /exit is asked, not done\n")
        terminal.wait_for("tokens/s")
        terminal.wait_for("> ")
        terminal.type("\x04")
        terminal.wait_for("2 answers")
        assert terminal.process.wait(timeout=120) == 0
        assert "Traceback" not in terminal.shown
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.master)
