"""The merge is PEFT's, for every kind of adapter that is taken; everything else is refused by name."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file

from convert.adapter import read_adapter
from convert.config import ConvertConfig
from convert.source import read_source
from convert.weights import read_tensors, round_to
from medllama.errors import InputError, UnsupportedError
from tests.adapters import LINEAR, make_adapter, merged_by_peft
from tests.checkpoints import make_llama2_checkpoint

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "attention only": {"target_modules": ["q_proj", "v_proj"]},
    "one layer": {"layers_to_transform": [1]},
    "rank and alpha patterns": {
        "rank_pattern": {"q_proj": 8, "layers.1.mlp.up_proj": 2},
        "alpha_pattern": {"down_proj": 3},
    },
    "rsLoRA": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "DoRA with rsLoRA": {"use_dora": True, "use_rslora": True},
    "saved embedding and head": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "saved head": {"modules_to_save": ["lm_head"]},
    "trained tokens": {"trainable_token_indices": [5, 17, 300]},
    "trained tokens by module": {"trainable_token_indices": {"embed_tokens": [7]}},
    "head": {"target_modules": [*LINEAR, "lm_head"]},
    "embedding": {"target_modules": [*LINEAR, "embed_tokens"]},
}
TIED_KINDS = ("plain", "saved embedding and head", "saved head", "trained tokens", "saved embedding")


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama2_checkpoint(tmp_path_factory.mktemp("untied") / "base")


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama2_checkpoint(tmp_path_factory.mktemp("tied") / "base", tie_word_embeddings=True)


def merged_by_us(base: Path, adapter: Path) -> dict[str, numpy.ndarray]:
    """Every tensor of the converter's plan, by Hugging Face name, float32, before the change of layout."""
    source = read_source(ConvertConfig(str(base), Path("unused"), adapter=adapter))
    return {target.source: source.merged(target) for target in source.targets}


def assert_same_merge(base: Path, adapter: Path) -> None:
    ours, theirs = merged_by_us(base, adapter), merged_by_peft(base, adapter)
    stored = read_tensors([base / "model.safetensors"])
    assert ours.keys() == theirs.keys()
    changed = 0
    for name, values in ours.items():
        reference = theirs[name].numpy()
        base_values = stored[name].float32() if name in stored else None
        if base_values is not None and numpy.array_equal(reference, base_values):
            assert numpy.array_equal(values, reference), f"{name} is untouched and must be equal to the bit"
            continue
        changed += 1
        largest = numpy.abs(reference).max(axis=-1, keepdims=True)
        # Two orders of summing r products differ by a few float32 roundings.
        assert (numpy.abs(values - reference) <= 1e-6 * largest).all(), name
        ours16, theirs16 = round_to(values, "F16", name), round_to(reference, "F16", name)
        steps = numpy.abs(ours16.view(numpy.int16).astype(int) - theirs16.view(numpy.int16).astype(int))
        same_sign = numpy.signbit(ours16) == numpy.signbit(theirs16)
        assert (steps[same_sign] <= 1).all(), name
        assert (steps == 0).mean() >= 0.999, name
    assert changed > 0, "the adapter changed nothing"


@pytest.mark.parametrize("kind", KINDS)
def test_the_merge_is_pefts(kind: str, untied: Path, tmp_path: Path) -> None:
    assert_same_merge(untied, make_adapter(untied, tmp_path / "adapter", **KINDS[kind]))


@pytest.mark.parametrize("kind", TIED_KINDS)
def test_the_merge_into_a_tied_model_is_pefts(kind: str, tied: Path, tmp_path: Path) -> None:
    settings = KINDS.get(kind, {"modules_to_save": ["embed_tokens"]})
    assert_same_merge(tied, make_adapter(tied, tmp_path / "adapter", **settings))


def test_the_merge_is_the_float64_product_rounded(untied: Path, tmp_path: Path) -> None:
    adapter = make_adapter(untied, tmp_path / "adapter")
    parts = read_tensors([adapter / "adapter_model.safetensors"])
    stored = read_tensors([untied / "model.safetensors"])
    for name, values in merged_by_us(untied, adapter).items():
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{prefix}.lora_A.weight" not in parts:
            continue
        a = parts[f"{prefix}.lora_A.weight"].float32().astype(numpy.float64)
        b = parts[f"{prefix}.lora_B.weight"].float32().astype(numpy.float64)
        exact = stored[name].float32().astype(numpy.float64) + 12 / 4 * (b @ a)
        largest = numpy.abs(exact).max(axis=1, keepdims=True)
        assert (numpy.abs(values - exact) <= 1e-6 * largest).all(), name


def test_a_float16_adapter_merges_like_its_values(untied: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    adapter = make_adapter(untied, tmp_path / "adapter")
    path = adapter / "adapter_model.safetensors"
    save_file({name: value.to(torch.bfloat16) for name, value in load_file(path).items()}, path)
    assert_same_merge(untied, adapter)


REFUSED = {
    "bias": "all",
    "lora_bias": True,
    "init_lora_weights": "pissa",
    "loftq_config": {"loftq_bits": 4},
    "target_parameters": ["mlp.up_proj.weight"],
    "layer_replication": [[0, 2]],
    "alora_invocation_tokens": [1, 2],
    "fan_in_fan_out": True,
    "corda_config": {"corda_method": "kpm"},
    "use_qalora": True,
    "megatron_config": {"a": 1},
    "a_field_of_tomorrow": 3,
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_setting_that_changes_the_merge_is_refused_by_name(name: str, untied: Path, tmp_path: Path) -> None:
    adapter = make_adapter(untied, tmp_path / "adapter")
    config_path = adapter / "adapter_config.json"
    config_path.write_text(json.dumps(json.loads(config_path.read_text()) | {name: REFUSED[name]}))
    with pytest.raises(UnsupportedError, match=f"cannot be merged exactly: .*{name}=") as refusal:
        read_adapter(adapter)
    assert "merge_and_unload" in refusal.value.hint


@pytest.mark.parametrize("name", ["olora", "pissa_niter_4", "corda", "loftq", "lora_ga"])
def test_an_initialization_that_changed_the_base_is_refused(name: str, untied: Path, tmp_path: Path) -> None:
    adapter = make_adapter(untied, tmp_path / "adapter")
    config_path = adapter / "adapter_config.json"
    config_path.write_text(json.dumps(json.loads(config_path.read_text()) | {"init_lora_weights": name}))
    with pytest.raises(UnsupportedError, match=f"init_lora_weights={name}"):
        read_adapter(adapter)


def test_another_peft_method_is_refused(untied: Path, tmp_path: Path) -> None:
    adapter = make_adapter(untied, tmp_path / "adapter")
    config_path = adapter / "adapter_config.json"
    config_path.write_text(json.dumps(json.loads(config_path.read_text()) | {"peft_type": "IA3"}))
    with pytest.raises(UnsupportedError, match="is IA3, not LORA"):
        read_adapter(adapter)


def test_an_adapter_of_another_shape_is_no_adapter_of_this_base(untied: Path, tmp_path: Path) -> None:
    other = make_llama2_checkpoint(tmp_path / "other", intermediate_size=768)
    adapter = make_adapter(other, tmp_path / "adapter")
    with pytest.raises(InputError, match=r"is not an adapter of .*: .* and the adapter is for") as refusal:
        read_source(ConvertConfig(str(untied), tmp_path, adapter=adapter))
    assert str(other) in refusal.value.hint


def test_a_saved_embedding_without_rows_is_refused(untied: Path, tmp_path: Path) -> None:
    adapter = make_adapter(untied, tmp_path / "adapter", modules_to_save=["embed_tokens", "lm_head"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    nothing = {
        name: value[:0].clone() for name, value in tensors.items() if "embed_tokens" in name or "lm_head" in name
    }
    save_file(tensors | nothing, adapter / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"model\.embed_tokens\.weight is \(0, 256\), which is nothing"):
        read_source(ConvertConfig(str(untied), tmp_path, adapter=adapter))


def test_a_lora_on_tied_embeddings_is_refused(tied: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tied, tmp_path / "adapter", target_modules=["q_proj", "embed_tokens"])
    with pytest.raises(UnsupportedError, match="embedding and head are one matrix"):
        read_source(ConvertConfig(str(tied), tmp_path, adapter=adapter))


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(file: str, untied: Path, tmp_path: Path) -> None:
    adapter = make_adapter(untied, tmp_path / "adapter")
    (adapter / file).unlink()
    with pytest.raises(InputError, match=re.escape(f"has no {file}")):
        read_adapter(adapter)


def test_a_pickled_adapter_is_refused(untied: Path, tmp_path: Path) -> None:
    adapter = make_adapter(untied, tmp_path / "adapter")
    shutil.move(adapter / "adapter_model.safetensors", adapter / "adapter_model.bin")
    with pytest.raises(InputError) as refusal:
        read_adapter(adapter)
    assert "pickle" in refusal.value.hint


def test_half_a_lora_is_refused(untied: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    adapter = make_adapter(untied, tmp_path / "adapter")
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    del tensors["base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"]
    save_file(tensors, path)
    with pytest.raises(InputError, match="up_proj has lora_A alone"):
        read_adapter(adapter)
