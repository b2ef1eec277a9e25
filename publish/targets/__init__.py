"""Where a package can go. `--to` names one of these kinds, and each is a module here.

    ollama[:URL]                      a running Ollama server
    ollama-hub:USER/NAME[:TAG]        ollama.com, through a running server
    hf:USER/REPO                      the Hugging Face Hub
    store:DIR                         straight into an Ollama store on disk
    registry:HOST:PORT/NS/NAME[:TAG]  an OCI registry

Every target takes a package that the gate has let through, under a name that was checked before, and leaves either the
whole model or none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from medllama.errors import UnsupportedError
from publish.gate import Package
from publish.layers import Layer, Model
from publish.reference import ModelName

# What NOTICE says in every package of ours, and so in the LICENSE layers: another's model of that name is not replaced.
MARK = "converted to GGUF by medllama"


@dataclass(frozen=True)
class Published:
    """What a target has now: one line for people, what to do next, and facts for `--json`."""

    line: str
    next: tuple[str, ...] = ()
    path: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class Target(ABC):
    """A place to publish to. `name` is what `--to` calls the model there; None where it leaves that open."""

    name: ModelName | None
    has_tags: ClassVar[bool] = True
    why_no_adapters: ClassVar[str] = ""

    def base(self, package: Package) -> Layer:
        """The model that the adapter of `package` is put on. Raises where the place cannot hold an adapter, or has no base."""
        raise UnsupportedError(
            f"an adapter cannot be published there: {self.why_no_adapters}",
            hint="publish the whole model: convert without --adapter-only, verify, package; or put the adapter on its base:"
            " store:DIR",
        )

    def plan(self, package: Package, name: ModelName, models: Sequence[Model]) -> list[str]:
        """What would be published, line by line; nothing is touched."""
        return list_layers(name, models)

    @abstractmethod
    def publish(self, package: Package, name: ModelName, models: Sequence[Model]) -> Published: ...


def list_layers(name: ModelName, models: Sequence[Model]) -> list[str]:
    """Every layer of every tag with its size and digest; a layer that an earlier tag has is said to be shared."""
    lines, seen = [], set()
    for model in models:
        lines.append(f"{name.with_tag(model.tag)}  ({model.file.name})")
        for layer in model.blobs:
            shared = "  shared" if layer.digest in seen else ""
            lines.append(f"  {layer.kind:<9} {size(layer.size_bytes):>11}  {layer.digest}{shared}")
            seen.add(layer.digest)
    total = {layer.digest: layer.size_bytes for model in models for layer in model.blobs}
    return [*lines, f"{len(total)} layers, {size(sum(total.values()))}"]


def size(count: int) -> str:
    """A number of bytes for people."""
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count:,} B"
