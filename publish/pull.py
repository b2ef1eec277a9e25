"""`medllama pull`: a model from an OCI registry into an Ollama store on disk, every byte verified.

    medllama pull registry:localhost:5000/ada/medllama:q4_K_M --to store:~/.ollama/models --name medllama

Ollama runs it from there (`ollama run medllama`). The manifest comes first and is taken apart, each blob is then hashed as
it lies on the disk, and the store's own manifest is written last: a pull that ends anywhere leaves no half model, and
the same command goes on where it ended.
"""

from __future__ import annotations

import json
import re
from typing import Any

from medllama.errors import InputError
from medllama.stages import StageResult
from publish.config import PullConfig
from publish.layers import LAYER_TYPE, MANIFEST_TYPE, NO_MANIFEST, Layer
from publish.oci import Repository
from publish.reference import LATEST, ModelName, parse_name
from publish.targets import size
from publish.targets.registry import Registry
from publish.targets.store import Store, require_space


def pull(config: PullConfig) -> StageResult:
    """Bring one tag of a registry into a store."""
    source, store = _source(config.source), _store(config.to)
    name = parse_name(config.name) if config.name else source
    name = name.with_tag(name.tag or source.tag)
    with Repository(source.host, source.repository) as repository:
        manifest = repository.manifest(source.tag)
        if manifest is None:
            raise InputError(f"{source.host} has no {source.repository}:{source.tag}", hint="is the tag right?")
        layers = read_layers(manifest, source)
        fetched: list[Layer] = []
        line = f"{store.folder} has {name} already"
        if not store.has_all(layers, {name: manifest}):
            with store.locked():
                store.require_free({name: manifest})
                fetched = [layer for layer in layers if not store.has(layer)]
                require_space(store.folder, sum(layer.size_bytes for layer in fetched), f"pulling {source}")
                for layer in fetched:
                    repository.download(layer.digest, layer.size_bytes, store.staged_path(layer.digest), layer.kind)
                store.commit(fetched, {name: manifest})
            line = f"{len(fetched)} layers, {size(sum(layer.size_bytes for layer in fetched))}, verified -> {name}"
    return StageResult(
        store.folder,
        {
            "line": line,
            "table": ["", "Next:", f"  ollama run {name}"],
            "name": str(name),
            "layers": {layer.digest: layer.size_bytes for layer in layers},
            "fetched_blobs": len(fetched),
        },
    )


def _source(text: str) -> ModelName:
    kind, _, place = text.partition(":")
    if kind != "registry":
        raise InputError(f"{text!r} is nothing to pull from", hint="write registry:HOST:PORT/NS/NAME[:TAG]")
    name = Registry.parse(place).name
    return name.with_tag(name.tag or LATEST)


def _store(text: str) -> Store:
    kind, _, place = text.partition(":")
    if kind != "store":
        raise InputError(f"{text!r} is nothing to pull into", hint="write --to store:DIR")
    return Store.parse(place)


def read_layers(manifest: bytes, name: ModelName) -> list[Layer]:
    """The blobs that a model's manifest names, each once, the config among them. Raises InputError where it is no Ollama model."""
    try:
        content: dict[str, Any] = json.loads(manifest)
        entries = [*content["layers"], content["config"]]
        layers = {it["digest"]: Layer(it["mediaType"], it["digest"], int(it["size"]), b"") for it in entries}
        is_sound = all(
            re.fullmatch(r"sha256:[0-9a-f]{64}", digest) and it.size_bytes >= 0 for digest, it in layers.items()
        )
    except NO_MANIFEST:
        is_sound, layers, content = False, {}, {}
    is_model = any(layer.media_type == LAYER_TYPE + "model" for layer in layers.values())
    if not is_sound or not is_model or content.get("mediaType") != MANIFEST_TYPE:
        raise InputError(f"{name} is no Ollama model", hint="publish one: medllama publish --help")
    return list(layers.values())
