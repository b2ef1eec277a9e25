"""The configurations of `medllama app` and `medllama chat`: every field is a flag and a recipe key."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from medllama.config import option

MOST_MODELS = 4
MOST_SEED = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What both verbs ask of a model."""

    system: str = option("", help="the system prompt", kind="text")
    temperature: float = option(0.0, help="0 takes the likeliest token each time; more draws others, too")
    top_p: float = option(0.95, help="draw among the likeliest tokens that together have this probability")
    seed: int = option(0, help="seed of the drawing: the same seed gives the same answer")
    max_tokens: int = option(256, help="the tokens after which an answer is cut")
    context_tokens: int = option(
        4096, help="tokens of a conversation that a model can see, where it was made for as many"
    )
    threads: int | None = option(None, help="CPU threads (default: all)")

    def problems(self) -> list[str]:
        found = [
            f"{name}: {value} must be {least} or more"
            for name, least in (("temperature", 0), ("max_tokens", 1), ("context_tokens", 1), ("threads", 1))
            if (value := getattr(self, name)) is not None and value < least
        ]
        if not 0 < self.top_p <= 1:
            found.append(f"top_p: {self.top_p} must be above 0 and at most 1")
        if not 0 <= self.seed <= MOST_SEED:
            found.append(f"seed: {self.seed} must be 0 to {MOST_SEED}")
        return found


@dataclass(frozen=True)
class AppConfig(Asking):
    """GGUF files in, a page that asks all of them the same."""

    model: tuple[str, ...] = option(
        help=f"a GGUF to ask (with --backend ollama: a model's name there), up to {MOST_MODELS}; the first is the base",
        kind="path",
        metavar="FILE",
    )
    adapter_gguf: Path | None = option(
        None,
        help="an adapter as a GGUF: the base with it is one more voice, on the same weights in memory",
        kind="path",
        metavar="FILE",
    )
    backend: Literal["llama.cpp", "ollama"] = option(
        "llama.cpp", help="what computes: llama.cpp in this process, or an Ollama server that runs already"
    )
    ollama_host: str = option("http://127.0.0.1:11434", help="where that Ollama server is")
    examples: tuple[str, ...] = option((), help="questions to try, shown on the page", kind="text")
    ratings: Path = option(
        Path("ratings.sqlite"),
        help="the database of blind ratings, made at the first one",
        kind="output",
        metavar="FILE",
    )
    evaluation: Path | None = option(None, help="results of `medllama eval` to show", kind="path", metavar="FILE")
    certificate: Path | None = option(
        None, help="a certificate of `medllama verify` to show", kind="path", metavar="FILE"
    )
    max_seconds: float = option(300.0, help="seconds after which an answer is cut, so that the next person has a turn")
    host: str = option("127.0.0.1", help="the address to serve on; another than this machine's own needs a password")
    port: int = option(7860, help="the port, or the next one that is free; 0 takes any")
    password_file: Path | None = option(
        None, help="a file whose first line is the password that the page asks for", kind="path", metavar="FILE"
    )

    def problems(self) -> list[str]:
        found = super().problems()
        voices = len(self.model) + (self.adapter_gguf is not None)
        if not self.model or voices > MOST_MODELS:
            found.append(f"model: {voices} models cannot stand side by side, 1 to {MOST_MODELS} can")
        if self.adapter_gguf is not None and len(self.model) != 1:
            found.append("adapter_gguf: name the base as the only model")
        if self.adapter_gguf is not None and self.backend == "ollama":
            found.append("adapter_gguf: an Ollama server applies adapters by itself: name the model that has it")
        if self.backend == "ollama" and not self.ollama_name:
            found.append(f"ollama_host: {self.ollama_host} is no address such as http://127.0.0.1:11434")
        if not self.max_seconds > 0:
            found.append(f"max_seconds: {self.max_seconds} must be above 0")
        if not 0 <= self.port <= 65535:
            found.append(f"port: {self.port} must be 0 to 65535")
        if not self.is_loopback and self.password_file is None:
            found.append(f"host: {self.host} is open to the network and needs a --password-file")
        return found

    @property
    def ollama_name(self) -> str:
        """The machine of the Ollama server; empty where `ollama_host` is no address."""
        try:
            address = urlsplit(self.ollama_host)
            return (address.hostname or "") if address.scheme in ("http", "https") else ""
        except ValueError:
            return ""

    @property
    def elsewhere(self) -> str:
        """The other machine that questions go to, if any."""
        return "" if self.backend == "llama.cpp" or is_loopback(self.ollama_name) else self.ollama_name

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the page."""
        return is_loopback(self.host)


@dataclass(frozen=True)
class ChatConfig(Asking):
    """A GGUF in, a conversation out."""

    gguf: Path = option(help="the GGUF to ask", kind="path", metavar="FILE")


def is_loopback(host: str) -> bool:
    """Whether this is a name of this machine that no other machine reaches it by."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
