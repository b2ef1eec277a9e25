"""`medllama chat`: a conversation with one model in the terminal.

    medllama chat --gguf medllama-Q4_K_M.gguf
    echo "What is gout?" | medllama chat --gguf medllama-Q4_K_M.gguf

On a terminal it goes on until Ctrl-D; Ctrl-C stops an answer and not the program. What comes through a pipe is one question,
whole, and the answer is all that stands on stdout.
"""

from __future__ import annotations

import contextlib
import io
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict

from app.config import ChatConfig
from app.conversation import Answer, Askable, Sampling
from app.notice import NOTICE
from app.voices import open_voices
from medllama.errors import InputError
from medllama.stages import StageResult

HELP = """\
/system TEXT   set the system prompt and begin anew; without TEXT: show it
/clear         begin anew
/exit          end; so does Ctrl-D. Ctrl-C stops an answer"""
# A model's text must not move the cursor or rename the window: control characters are shown as U+FFFD.
CONTROLS = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def chat(config: ChatConfig) -> StageResult:
    """Ask and answer until the input ends."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    with open_voices([config.gguf], context_tokens=config.context_tokens, threads=config.threads) as (voice,):
        conversation = Conversation(voice, config)
        if sys.stdin.isatty():
            conversation.converse()
        else:
            conversation.ask(sys.stdin.read().strip())
    answers = conversation.answers
    line = f"{len(answers)} answer{'' if len(answers) == 1 else 's'}, {sum(it.tokens for it in answers):,} tokens"
    return StageResult(None, {"line": line, "answers": [asdict(answer) for answer in answers]})


class Conversation:
    """What was said so far, and the system prompt above it."""

    def __init__(self, voice: Askable, config: ChatConfig) -> None:
        self.voice = voice
        self.sampling = Sampling(config.temperature, config.top_p, config.seed, config.max_tokens)
        self.system = config.system
        self.messages: list[dict[str, str]] = []
        self.answers: list[Answer] = []

    def converse(self) -> None:
        """Ask for a line and answer it, until the person has enough."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (gives input() its line editing)
        tell(
            f"{self.voice.name}, {self.voice.context_tokens or 0:,} tokens of context. /help lists the commands.\n{NOTICE}"
        )
        while (line := read_line()) is not None and line.split() != ["/exit"]:
            if line.startswith("/"):
                self.command(*line.split(maxsplit=1))
            elif question := line.strip():
                try:
                    self.ask(question)
                    tell(self.answers[-1].figures)
                except InputError as error:
                    tell(f"{error.message}\n{error.hint}: /clear")

    def command(self, name: str, text: str = "") -> None:
        """What a line that begins with a slash asks for."""
        if name == "/system" and not text:
            tell(self.system or "there is no system prompt")
        elif name in ("/system", "/clear"):
            self.system = text or self.system
            self.messages.clear()
            tell("a new conversation" + (f" under: {self.system}" if self.system else ""))
        else:
            tell(HELP if name == "/help" else f"there is no {name}; to ask it, begin with a space\n{HELP}")

    def ask(self, question: str) -> None:
        """Answer a question on stdout, as the answer comes."""
        if not question:
            raise InputError("there is no question", hint='echo "What is gout?" | medllama chat --gguf FILE')
        asked = [*self.messages, {"role": "user", "content": question}]
        system = [{"role": "system", "content": self.system}] if self.system else []
        shown = 0
        with interruptible() as is_interrupted:
            for answer in self.voice.answer([*system, *asked], self.sampling, is_interrupted):
                print(answer.text[shown:].translate(CONTROLS), end="", flush=True)
                shown = len(answer.text)
        print(flush=True)
        self.messages = [*asked, {"role": "assistant", "content": answer.text}]
        self.answers.append(answer)


def read_line() -> str | None:
    """A line that a person typed; None at Ctrl-D. Ctrl-C gives up the line and asks for another."""
    prompt = "> "
    if not sys.stdout.isatty():  # input() would write it among the answers
        print(prompt, end="", file=sys.stderr, flush=True)
        prompt = ""
    try:
        return input(prompt)
    except EOFError:
        tell("")
        return None
    except KeyboardInterrupt:
        tell("\nCtrl-D or /exit ends")
        return ""


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C sets what is yielded instead of ending the program."""
    is_asked = threading.Event()
    previous = signal.signal(signal.SIGINT, lambda number, frame: is_asked.set())
    try:
        yield is_asked.is_set
    finally:
        signal.signal(signal.SIGINT, previous)


def tell(text: str) -> None:
    """A line for the person, beside the answers on stdout."""
    print(text, file=sys.stderr, flush=True)
