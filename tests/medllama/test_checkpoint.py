"""A base's folder is found, and every way in which it can be broken is one clear error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import httpx
import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from medllama.checkpoint import (
    base_digests,
    find_base,
    find_base_here,
    read_config,
    read_header,
    require_llama,
    safetensors_files,
)
from medllama.errors import InputError, MedllamaError, UnsupportedError
from tests.checkpoints import make_llama2_checkpoint

SMALL = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama2_checkpoint(tmp_path_factory.mktemp("checkpoint") / "base", **SMALL)


@pytest.fixture
def base(original: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(original, tmp_path / "base"))


def test_a_whole_checkpoint_passes(base: Path) -> None:
    assert find_base(str(base)) == base
    config = read_config(base)
    require_llama(config, base)
    assert safetensors_files(base) == [base / "model.safetensors"]
    assert set(base_digests(base)) == {"config.json", "model.safetensors"}


def test_the_header_tells_where_the_tensors_lie(base: Path) -> None:
    from safetensors.numpy import load_file

    header = read_header(base / "model.safetensors")
    weights = load_file(base / "model.safetensors")
    assert {name: tuple(entry["shape"]) for name, entry in header.tensors.items()} == {
        name: weight.shape for name, weight in weights.items()
    }
    start, end = header.tensors["model.norm.weight"]["data_offsets"]
    content = (base / "model.safetensors").read_bytes()
    assert content[header.data_start + start : header.data_start + end] == weights["model.norm.weight"].tobytes()


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_truncated_weights_are_refused(base: Path, kept: int) -> None:
    path = base / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"model\.safetensors (is no safetensors file|has [\d,]+ bytes where)"):
        safetensors_files(base)


def test_a_git_lfs_pointer_is_named(base: Path) -> None:
    (base / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(InputError, match="is a Git LFS pointer"):
        safetensors_files(base)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_a_pickle_is_refused_by_name(base: Path, name: str) -> None:
    (base / "model.safetensors").rename(base / name)
    with pytest.raises(UnsupportedError, match=name) as caught:
        safetensors_files(base)
    assert "save_pretrained" in caught.value.hint


def test_weights_that_are_not_there_are_refused(base: Path) -> None:
    (base / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no model\.safetensors"):
        safetensors_files(base)


def _shard(base: Path, weight_map: dict[str, str]) -> None:
    (base / "model.safetensors").rename(base / "model-00001-of-00001.safetensors")
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_shards_are_found_through_their_index(base: Path) -> None:
    _shard(base, {"model.norm.weight": "model-00001-of-00001.safetensors"})
    assert safetensors_files(base) == [base / "model-00001-of-00001.safetensors"]


@pytest.mark.parametrize(
    ("weight_map", "reason"),
    [
        ({"a": "model-00002-of-00002.safetensors"}, "lacks model-00002-of-00002.safetensors"),
        ({"a": "model-00001-of-00001.safetensors"}, "has no a, which"),
        ({"a": "../base/model-00001-of-00001.safetensors"}, "lacks ../base"),
        ({}, "names no weights"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(base: Path, weight_map: dict[str, str], reason: str) -> None:
    _shard(base, weight_map)
    with pytest.raises(InputError, match=reason):
        safetensors_files(base)


def test_where_one_file_and_an_index_stand_the_file_is_the_model_as_for_transformers(base: Path) -> None:
    """save_pretrained of one file into a folder that had shards removes them, and leaves their index."""
    (base / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}})
    )
    assert safetensors_files(base) == [base / "model.safetensors"]


def test_shards_without_their_index_are_told(base: Path) -> None:
    (base / "model.safetensors").rename(base / "model-00001-of-00002.safetensors")
    with pytest.raises(InputError, match=r"has no model\.safetensors\.index\.json beside model-00001-of-00002"):
        safetensors_files(base)


def test_a_folder_without_a_config_is_refused(base: Path) -> None:
    (base / "config.json").rename(base / "adapter_config.json")
    with pytest.raises(InputError, match=r"has no config\.json: it is an adapter"):
        read_config(base)
    (base / "adapter_config.json").unlink()
    with pytest.raises(InputError, match=r"has no config\.json\nhint") as caught:
        read_config(base)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "mistral", "architectures": ["MistralForCausalLM"]}, "MistralForCausalLM is not Llama"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification is not"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"quantized \(gptq\)"),
    ],
)
def test_what_is_no_plain_llama_is_refused(base: Path, change: dict[str, object], reason: str) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        require_llama(read_config(base) | change, base)


def test_a_config_without_its_numbers_is_refused(base: Path) -> None:
    config = read_config(base)
    with pytest.raises(InputError, match="gives no number for vocab_size"):
        require_llama({key: value for key, value in config.items() if key != "vocab_size"}, base)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere", "the base model nowhere does not exist"),
        ("./no/where", "does not exist"),
        ("meta-llama/Llama-2-7b-hf@main", "is no folder here and not in the hub's cache"),
        ("no where/at all", "cannot be a hub id"),
    ],
)
def test_a_missing_base_is_one_line_and_a_hint(name: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        find_base(name)
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_a_file_is_no_base(base: Path) -> None:
    with pytest.raises(InputError, match="is a file, not the folder"):
        find_base(str(base / "config.json"))


@pytest.mark.parametrize(
    ("kind", "reason", "hint"),
    [
        (GatedRepoError, "is gated", "accept its licence at https://huggingface.co/meta-llama/Llama-2-7b-hf"),
        (RepositoryNotFoundError, "is not on the hub", "hf auth login"),
        (RevisionNotFoundError, "has no revision old", "commits"),
    ],
)
def test_the_hubs_refusals_say_what_to_do(
    monkeypatch: pytest.MonkeyPatch, kind: type[Exception], reason: str, hint: str
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise kind("refused", response=httpx.Response(403, request=httpx.Request("GET", "https://huggingface.co")))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(MedllamaError, match=reason) as caught:
        find_base("meta-llama/Llama-2-7b-hf@old")
    assert hint in caught.value.hint


def test_a_full_disk_while_downloading_is_not_called_a_missing_base(monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fill)
    with pytest.raises(OSError, match="No space left"):
        find_base("meta-llama/Llama-2-7b-hf")


def test_a_base_that_is_not_on_this_disk_is_none_and_is_not_fetched(tmp_path: Path) -> None:
    assert find_base_here(str(tmp_path)) == tmp_path
    for name in ("nobody/no-such-base", "nobody/no-such-base@main", "no-folder", "a/b/c", "bad name/x"):
        assert find_base_here(name) is None
