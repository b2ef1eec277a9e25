"""A package as Ollama keeps models: a manifest for each tag, its config and its layers, each named by its SHA-256.

    models = make_models(package, tags)    ->  one Model per tag; tags share the layers that are equal

The model layer is the GGUF as it is, so its digest is the certificate's. (`ollama create` rewrites the file.) The tags are
`latest`, for the file that the Modelfile runs, and one per file by its type in the spelling of Ollama's library: `q4_K_M`,
`f16`. Sources followed: server/create.go and types/model in Ollama, the image manifest of the OCI distribution protocol.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

from medllama.errors import InputError
from publish.certificate import CertifiedFile
from publish.gate import Package
from publish.reference import LATEST, check_tag

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER_TYPE = "application/vnd.ollama.image."
NO_MANIFEST = (ValueError, KeyError, TypeError, OverflowError, RecursionError)  # what reading something else raises
TYPE_TAG = re.compile(r"(i?q\d|t?q\d|b?f16|f32|mxfp4)", re.IGNORECASE)  # how a tag begins that names a type


@dataclass(frozen=True)
class Layer:
    """A blob: its media type, digest ("sha256:HEX"), size, and where its bytes are."""

    media_type: str
    digest: str
    size_bytes: int
    source: Path | bytes

    @property
    def kind(self) -> str:
        return "config" if self.media_type == CONFIG_TYPE else self.media_type.removeprefix(LAYER_TYPE)

    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size_bytes}


@dataclass(frozen=True)
class Model:
    """What one tag names: a file of the package, and the layers around it."""

    tag: str
    file: CertifiedFile
    config: Layer
    layers: tuple[Layer, ...]

    @property
    def blobs(self) -> tuple[Layer, ...]:
        return (*self.layers, self.config)

    @property
    def manifest(self) -> bytes:
        content = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": self.config.descriptor(),
            "layers": [layer.descriptor() for layer in self.layers],
        }
        return json.dumps(content, separators=(",", ":")).encode()


def make_models(package: Package, tags: Sequence[str] = (), base: Layer | None = None) -> tuple[Model, ...]:
    """One model per tag; without tags, `latest` and one per file. `base` is the model that an adapter alone is put on."""
    texts = _text_layers(package)
    chosen = {tag: file_of_tag(package, tag) for tag in tags} or {
        LATEST: package.default, **{file.tag: file for file in package.files}
    }  # fmt: skip
    run = base.source if base is not None else package.path(package.default)
    assert isinstance(run, Path), "a model is a file"
    family, count = _family_and_count(run)
    models = []
    for tag, file in chosen.items():
        kind = "model" if base is None else "adapter"
        own = Layer(LAYER_TYPE + kind, f"sha256:{file.sha256}", file.bytes, package.path(file))
        layers = (*((base,) if base is not None else ()), own, *texts)
        file_type = file.type if base is None else package.base_types[base.digest]
        models.append(Model(tag, file, _config(family, count, file_type, package.requires, layers), layers))
    return tuple(models)


def read_entries(manifest: bytes) -> list[Layer]:
    """The layers that somebody's manifest names, without their bytes; none where it is no manifest of a model."""
    try:
        entries = json.loads(manifest)["layers"]
        return [Layer(str(it["mediaType"]), str(it["digest"]), int(it["size"]), b"") for it in entries]
    except NO_MANIFEST:
        return []


def file_of_tag(package: Package, tag: str) -> CertifiedFile:
    """The file that a tag asks for: of the type that it names, else the one that the Modelfile runs."""
    check_tag(tag)
    for file in package.files:
        if file.type.lower() == tag.lower():
            return file
    if TYPE_TAG.match(tag):
        types = ", ".join(file.tag for file in package.files)
        raise InputError(
            f"the tag {tag!r} names a type of which {package.folder} has no file",
            hint=f"it has {types}; convert with --types {tag.upper()} for another",
        )
    return package.default


def _text_layers(package: Package) -> tuple[Layer, ...]:
    """The layers beside the model, in the order of `ollama create`."""
    layers = []
    if package.template is not None:
        layers.append(_layer("template", package.template.encode()))
    if package.system:
        layers.append(_layer("system", package.system.encode()))
    layers += [_layer("license", text.encode()) for text in package.licences]
    if package.parameters:
        layers.append(_layer("params", json.dumps(package.parameters).encode()))
    return tuple(layers)


def _layer(kind: str, content: bytes) -> Layer:
    media_type = CONFIG_TYPE if kind == "config" else LAYER_TYPE + kind
    return Layer(media_type, f"sha256:{hashlib.sha256(content).hexdigest()}", len(content), content)


def _family_and_count(path: Path) -> tuple[str, int]:
    """The architecture and the number of parameters, which a model's files share whatever their type."""
    reader = gguf.GGUFReader(path)
    return reader.fields["general.architecture"].contents(), sum(int(tensor.n_elements) for tensor in reader.tensors)


def _config(family: str, count: int, file_type: str, requires: str, layers: Sequence[Layer]) -> Layer:
    """What `ollama show` tells of a model, and the digests of its layers."""
    content = {
        "model_format": "gguf",
        "model_family": family,
        "model_families": [family],
        "model_type": short_count(count),
        "file_type": file_type,
        "architecture": "amd64",
        "os": "linux",
        **({"requires": requires} if requires else {}),
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
    }
    return _layer("config", json.dumps(content).encode())


def short_count(count: int) -> str:
    """A number of parameters as Ollama shows it: 6.7B, 4.98M."""
    for unit, letter, figures in ((1_000_000_000, "B", 1), (1_000_000, "M", 2), (1_000, "K", 0)):
        if count >= unit:
            return f"{count / unit:.{0 if count % unit == 0 else figures}f}{letter}"
    return str(count)
