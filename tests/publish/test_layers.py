"""A package becomes manifests and layers as Ollama keeps them; the model layer is the certified file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from medllama.errors import InputError
from publish.gate import open_package
from publish.layers import make_models, short_count


def test_every_layer_is_named_by_its_bytes(packaged: Path) -> None:
    package = open_package(packaged)
    for model in make_models(package):
        for layer in model.blobs:
            content = layer.source if isinstance(layer.source, bytes) else layer.source.read_bytes()
            assert layer.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
            assert layer.size_bytes == len(content)
        assert model.layers[0].digest == f"sha256:{model.file.sha256}"
        assert model.file in package.certificate.files


def test_the_layers_are_those_of_the_modelfile(packaged: Path) -> None:
    package = open_package(packaged)
    model = make_models(package, ["latest"])[0]
    kinds = [layer.kind for layer in model.layers]
    assert kinds == ["model", "template", "system", "license", "license", "license", "params"]
    texts = [layer.source for layer in model.layers if isinstance(layer.source, bytes)]
    assert texts[0].decode() == package.template
    assert texts[1] == b"Answer briefly."
    assert texts[2].decode().startswith("LLAMA 2 COMMUNITY LICENSE")
    assert json.loads(texts[-1]) == {"stop": ["</s>"], "temperature": 0.2, "num_ctx": 128}


def test_the_manifest_and_config_say_what_ollama_reads(packaged: Path) -> None:
    model = make_models(open_package(packaged), ["f16"])[0]
    manifest = json.loads(model.manifest)
    assert manifest["schemaVersion"] == 2
    assert manifest["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert manifest["config"]["mediaType"] == "application/vnd.docker.container.image.v1+json"
    assert manifest["layers"][0] == {
        "mediaType": "application/vnd.ollama.image.model",
        "digest": f"sha256:{model.file.sha256}",
        "size": model.file.bytes,
    }
    assert isinstance(model.config.source, bytes)
    config = json.loads(model.config.source)
    assert config["model_format"] == "gguf"
    assert (config["model_family"], config["model_families"], config["file_type"]) == ("llama", ["llama"], "F16")
    assert config["model_type"].endswith(("K", "M"))
    assert (config["architecture"], config["os"]) == ("amd64", "linux")
    assert config["rootfs"]["diff_ids"] == [layer.digest for layer in model.layers]


def test_tags_share_their_layers(packaged: Path) -> None:
    models = {model.tag: model for model in make_models(open_package(packaged))}
    assert list(models) == ["latest", "f16", "q4_K_M"]
    assert models["latest"].manifest == models["q4_K_M"].manifest
    assert models["f16"].layers[1:] == models["latest"].layers[1:]
    assert models["f16"].layers[0] != models["latest"].layers[0]


def test_a_tag_names_a_type_or_is_the_default_file(packaged: Path) -> None:
    package = open_package(packaged)
    chosen = {model.tag: model.file.type for model in make_models(package, ["F16", "q4_k_m", "v1.0", "question"])}
    assert chosen == {"F16": "F16", "q4_k_m": "Q4_K_M", "v1.0": "Q4_K_M", "question": "Q4_K_M"}
    for tag in ("q8_0", "bf16", "iq4_xs"):
        with pytest.raises(InputError) as refused:
            make_models(package, [tag])
        assert refused.value.hint.startswith("it has f16, q4_K_M; ")


@pytest.mark.parametrize(
    ("count", "shown"),
    [(6_738_415_616, "6.7B"), (1_235_814_400, "1.2B"), (4_983_040, "4.98M"), (2_000_000, "2M"), (51_000, "51K"), (7, "7")],
)  # fmt: skip
def test_parameters_are_counted_as_ollama_shows_them(count: int, shown: str) -> None:
    assert short_count(count) == shown
