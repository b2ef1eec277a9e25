"""`registry:HOST:PORT/NS/NAME[:TAG]`: a package straight to an OCI distribution registry, with no Ollama server.

    medllama publish --package DIR --to registry:localhost:5000/ada/medllama
    medllama pull registry:localhost:5000/ada/medllama --to store:~/.ollama/models

Every layer first, then the manifests, which are read back and held against what was sent. Ollama itself cannot pull from a plain
registry today (it wants a Location header on blobs, ollama/ollama #7244), so `medllama pull` brings the model into its store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medllama.errors import CheckFailed, InputError
from publish.gate import Package
from publish.layers import Model, read_entries
from publish.oci import LARGEST_MANIFEST_BYTES, Repository
from publish.reference import HUB, ModelName, check_case, check_for_registry, parse_name
from publish.targets import MARK, Published, Target


@dataclass(frozen=True)
class Registry(Target):
    """A repository of an OCI registry."""

    name: ModelName
    why_no_adapters = "the base would have to be there too, and stay the same"

    @classmethod
    def parse(cls, place: str) -> Registry:
        if place.count("/") != 2:
            raise InputError(
                f"registry:{place} does not name host, namespace and model",
                hint="write registry:HOST:PORT/NS/NAME[:TAG]",
            )
        name = parse_name(place)
        if name.host == HUB:
            raise InputError("Ollama's hub takes models from an Ollama server's key only, not from a registry client",
                             hint=f"on a machine with Ollama: ollama push {name}")  # fmt: skip
        check_for_registry(name)
        return cls(name)

    def publish(self, package: Package, name: ModelName, models: Sequence[Model]) -> Published:
        """Blobs first, all of them; then the manifests."""
        layers = {layer.digest: (layer, f"{layer.kind} of {model.tag}") for model in models for layer in model.blobs}
        with Repository(name.host, name.repository) as repository:
            taken = repository.tags()
            for model in models:
                check_case(name.with_tag(model.tag), taken, name.host)
            manifests = {model.tag: repository.manifest(model.tag) for model in models}
            for tag, manifest in manifests.items():
                _require_ours(repository, name.with_tag(tag), manifest)
            sent = sum(repository.upload(layer, label) for layer, label in layers.values())
            changed = [model for model in models if manifests[model.tag] != model.manifest]
            for model in changed:
                repository.put_manifest(model.tag, model.manifest)
            for model in models:
                _read_back(repository, name.with_tag(model.tag), model)
        line = f"{len(changed)} of {len(models)} tags and {sent} of {len(layers)} layers sent to {name.host}, read back"
        return Published(
            line if changed or sent else f"{name.host} has all of it already; nothing sent",
            tuple(f"medllama pull registry:{name.with_tag(model.tag)} --to store:DIR" for model in models),
            None,
            {"sent_blobs": sent, "sent_manifests": len(changed)},
        )


def _require_ours(repository: Repository, name: ModelName, manifest: bytes | None) -> None:
    """Raise InputError where the tag is taken by something that medllama did not make."""
    if manifest is None:
        return
    licences = [
        repository.small_blob(layer.digest)
        for layer in read_entries(manifest)
        if layer.kind == "license" and layer.size_bytes < LARGEST_MANIFEST_BYTES
    ]
    if not any(MARK.encode() in licence for licence in licences):
        raise InputError(
            f"{name} is taken by something that medllama did not make", hint="publish under another name or tag"
        )


def _read_back(repository: Repository, name: ModelName, model: Model) -> None:
    """Raise CheckFailed where the registry does not have what was sent."""
    if repository.manifest(model.tag) != model.manifest:
        raise CheckFailed(
            f"{name} is not what was sent: another publish came between", hint="run the same command again"
        )
    for layer in model.blobs:
        if not repository.has_blob(layer.digest, layer.size_bytes):
            raise CheckFailed(f"{name} lacks {layer.kind} {layer.digest}", hint="run the same command again")
