"""An adapter is packaged alone with the name of its base, and published where exactly that base is; elsewhere it is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from convert.config import ConvertConfig
from convert.convert import convert
from medllama.chat import load_chat
from medllama.errors import CheckFailed, InputError, UnsupportedError
from medllama.files import sha256_file
from medllama.go_template import derive_go_template
from publish.config import PublishConfig
from publish.gate import open_package
from publish.modelfile import read_modelfile
from publish.publish import publish
from tests.adapters import make_adapter
from tests.publish.packages import Made, certificate
from tests.publish.targets.test_store import models_of
from tests.publish.test_gate import edit, edit_certificate


@dataclass
class Pair:
    """A package of the base alone and what makes one of the adapter alone, both certified."""

    base_package: Path
    base_file: Path
    adapter: Made

    def package(self, **changes: Any) -> Path:
        return self.adapter.package(**{"base_in_ollama": "base", "name": "med"} | changes)


@pytest.fixture
def pair(made: Callable[..., Made], tmp_path: Path) -> Pair:
    base = made()
    base.edit(adapter=None, data=None)
    whole, base_file = base.package(gguf=(str(base.files[1]),)), base.files[1]
    make_adapter(base.base, tmp_path / "adapter")
    convert(
        ConvertConfig(
            base_model=str(base.base), output_dir=tmp_path / "lora", types=("F16",), name="med",
            adapter=tmp_path / "adapter", adapter_only=True,
        )
    )  # fmt: skip
    files = [base_file, tmp_path / "lora" / "med-lora-F16.gguf"]
    content = certificate(base.base, files)
    for entry, model in zip(content["files"], ("base", "adapter"), strict=True):
        entry["model"] = model
    (tmp_path / "both.json").write_text(json.dumps(content))
    return Pair(whole, base_file, Made(base.base, files, tmp_path / "both.json", tmp_path / "adapter-package"))


def send(folder: Path, to: str, **changes: Any) -> dict[str, Any]:
    return publish(PublishConfig(**{"package": folder, "to": to, "name": "med"} | changes)).summary


def test_the_package_names_the_base_and_holds_the_adapter(pair: Pair) -> None:
    out = pair.package()
    commands = read_modelfile((out / "Modelfile").read_text(encoding="utf-8"))
    assert [(it.name, it.value) for it in commands[:2]] == [("from", "base"), ("adapter", "./med-lora-F16.gguf")]
    assert [path.name for path in out.glob("*.gguf")] == ["med-lora-F16.gguf"]
    chat = load_chat(pair.adapter.base)
    assert chat is not None
    assert open_package(out).template == derive_go_template(chat), "as the base's GGUF has it"
    assert open_package(out).base_in_ollama == "base"
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "A LoRA adapter of llama2" in card
    assert "store:~/.ollama/models --name base" in card


def test_a_store_gets_the_adapter_on_the_base_that_is_there(pair: Pair, tmp_path: Path) -> None:
    store = tmp_path / "store"
    send(pair.base_package, f"store:{store}", name="base")
    done = send(pair.package(), f"store:{store}")
    assert done["written_blobs"] > 0
    manifests = models_of(store)
    names = ["base/latest", "base/q4_K_M", "med/f16", "med/latest"]
    assert [name.removeprefix("registry.ollama.ai/library/") for name in manifests] == names
    layers = manifests["registry.ollama.ai/library/med/latest"]["layers"]
    digests = [sha256_file(path) for path in pair.adapter.files]
    assert [(it["mediaType"].rpartition(".")[2], it["digest"][7:]) for it in layers[:2]] == list(
        zip(("model", "adapter"), digests, strict=True)
    )
    config = manifests["registry.ollama.ai/library/med/latest"]["config"]["digest"]
    assert json.loads((store / "blobs" / config.replace(":", "-")).read_text())["file_type"] == "Q4_K_M"
    assert send(pair.package(), f"store:{store}")["written_blobs"] == 0


def test_without_the_base_nothing_is_written_and_it_says_how_to_get_there(pair: Pair, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with pytest.raises(InputError, match="has no model base:latest, the adapter's base") as refused:
        send(pair.package(), f"store:{store}")
    assert f"--to store:{store} --name base:latest" in refused.value.hint
    assert not store.exists()


def test_another_base_of_that_name_is_refused(pair: Pair, packaged: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    send(packaged, f"store:{store}", name="base", tag=("f16",))
    path = store / "manifests/registry.ollama.ai/library/base/latest"
    path.write_bytes((path.parent / "f16").read_bytes())
    with pytest.raises(CheckFailed, match="is not the base that the adapter was proven on"):
        send(pair.package(), f"store:{store}")
    assert not (path.parents[1] / "med").exists()


def test_the_adapter_does_not_take_its_bases_name(pair: Pair, tmp_path: Path) -> None:
    store = tmp_path / "store"
    send(pair.base_package, f"store:{store}", name="base")
    before = models_of(store)
    with pytest.raises(InputError, match="base is what the adapter's base is called"):
        send(pair.package(), f"store:{store}", name="base")
    assert models_of(store) == before


@pytest.mark.parametrize("to", ["ollama", "ollama-hub:ada/med", "hf:ada/med", "registry:localhost:5000/ada/med"])
def test_where_no_adapter_can_be_it_is_refused_before_anything_is_asked(to: str, pair: Pair) -> None:
    with pytest.raises(UnsupportedError, match="an adapter cannot be published there") as refused:
        send(pair.package(), to)
    assert "store:DIR" in refused.value.hint


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"base_in_ollama": None}, "what its base is called in Ollama is not said"),
        ({"base_in_ollama": "Base"}, "has upper case"),
        ({"gguf": 1}, "the GGUF of its base is not among the files"),
    ],
)
def test_what_is_missing_for_a_package_is_told(changes: dict[str, Any], problem: str, pair: Pair) -> None:
    given = {"gguf": (str(pair.adapter.files[1]),)} if "gguf" in changes else changes
    with pytest.raises(InputError, match=problem) as refused:
        pair.package(**given)
    assert refused.value.hint
    assert not pair.adapter.output_dir.exists()


def test_an_adapter_that_the_certificate_does_not_name_is_refused(pair: Pair) -> None:
    content = json.loads(pair.adapter.certificate.read_text())
    pair.adapter.edit(files=content["files"][:1])
    with pytest.raises(CheckFailed, match=r"is not a file that .* vouches for"):
        pair.package()


def test_the_gate_takes_no_adapter_for_a_model_nor_a_model_for_an_adapter(pair: Pair) -> None:
    out = pair.package()
    entries = json.loads((out / "certificate.json").read_text())["files"]
    edit_certificate(out, files=[entry | {"model": "merged"} for entry in entries])
    with pytest.raises(CheckFailed, match="is no adapter, and the Modelfile has it as one"):
        open_package(out)
    edit_certificate(out, files=entries)
    edit(out, "Modelfile", "FROM base\nADAPTER ./med", "FROM ./med")
    with pytest.raises(CheckFailed, match="is the adapter alone, not the tuned model"):
        open_package(out)


def test_somebodys_modelfile_with_an_adapter_becomes_such_a_package(pair: Pair, tmp_path: Path) -> None:
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text("FROM ada/base:v1\nADAPTER ./lora/med-lora-F16.gguf\nPARAMETER top_k 7\n")
    out = pair.package(gguf=(str(pair.base_file),), from_modelfile=modelfile, base_in_ollama=None)
    package = open_package(out)
    assert (package.base_in_ollama, package.default.name) == ("ada/base:v1", "med-lora-F16.gguf")
    assert package.parameters["top_k"] == 7
