"""`ollama[:URL]`: a package to a running Ollama server, checked there before it gets its name.

    medllama publish --package DIR --to ollama
    medllama publish --package DIR --to ollama:http://workstation:11434 --name ada/medllama

The server rewrites the GGUF when it imports it, so its layer's digest is not the certificate's; `store:DIR` keeps the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from publish.gate import Package
from publish.install import install
from publish.layers import Model
from publish.ollama_server import OllamaServer, server_url
from publish.reference import ModelName
from publish.targets import Published, Target


@dataclass(frozen=True)
class Ollama(Target):
    """A server by its address."""

    url: str
    name = None
    why_no_adapters = "Ollama makes no models of adapters since 0.34.1"

    @classmethod
    def parse(cls, place: str) -> Ollama:
        return cls(server_url(place))

    def publish(self, package: Package, name: ModelName, models: Sequence[Model]) -> Published:
        tags = [name.with_tag(model.tag) for model in models]
        with OllamaServer(self.url) as server:
            server.require_version(package.requires)
            facts = install(server, package, models, name)
        line = f"{len(tags)} tags on {self.url}, checked: prompts and an answer that ends"
        return Published(line, tuple(f"ollama run {tag}" for tag in tags), None, {"checked": facts})
