"""`ollama-hub:USER/NAME[:TAG]`: a package to ollama.com, through a running server.

    medllama publish --package DIR --to ollama-hub:ada/medllama --dry-run
    medllama publish --package DIR --to ollama-hub:ada/medllama

The hub knows a server by its ed25519 key, so the push goes through the server of OLLAMA_HOST (else of this machine): name and
sign-in are checked first, then the model is installed and checked there, then pushed layer by layer. What the hub has is
not sent again, neither after a fault nor for another tag.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medllama.errors import InputError
from publish.gate import Package
from publish.install import install
from publish.layers import Model
from publish.ollama_server import OllamaServer, server_url
from publish.reference import HUB, LIBRARY, ModelName, parse_name
from publish.targets import Published, Target
from publish.targets.ollama import Ollama


@dataclass(frozen=True)
class OllamaHub(Target):
    """A name at the hub, and the server that pushes there."""

    name: ModelName
    url: str
    why_no_adapters = Ollama.why_no_adapters

    @classmethod
    def parse(cls, place: str) -> OllamaHub:
        name = parse_name(place)
        if name.host != HUB or name.namespace == LIBRARY:
            raise InputError(
                f"ollama-hub:{place} does not name you at the hub", hint="write ollama-hub:USER/NAME[:TAG]"
            )
        return cls(name, server_url(""))

    def publish(self, package: Package, name: ModelName, models: Sequence[Model]) -> Published:
        tags = [name.with_tag(model.tag) for model in models]
        with OllamaServer(self.url) as server:
            server.require_version(package.requires)
            _require_account(server.account(), name)
            facts = install(server, package, models, name)
            for tag in tags:
                server.push(tag)
        line = f"{len(tags)} tags pushed to https://ollama.com/{name.repository}"
        return Published(line, tuple(f"ollama run {tag}" for tag in tags), None, {"checked": facts})


def _require_account(account: str | None, name: ModelName) -> None:
    """Raise InputError where the server is signed in as somebody else; an older server does not tell who it is."""
    if account and account.lower() != name.namespace:
        raise InputError(
            f"the server is signed in as {account}, and may not push to {name.namespace}",
            hint=f"publish to ollama-hub:{account.lower()}/{name.model}, or sign in as {name.namespace} (ollama signout,"
            " ollama signin)",
        )
