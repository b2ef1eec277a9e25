"""No false alarm: right files of every shape of checkpoint and kind of adapter pass, quantized and not, adapters as GGUF too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from convert.config import ConvertConfig, VerifyConfig
from convert.convert import convert
from convert.verify import verify
from medllama.errors import CheckFailed, InputError
from tests.adapters import LINEAR, make_adapter
from tests.checkpoints import make_llama2_checkpoint, make_llama3_checkpoint
from tests.convert.faults import read, write

pytestmark = pytest.mark.slow  # a minute: whole certificates of many files

YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
SHAPES: dict[str, tuple[Any, dict[str, Any]]] = {
    "weak weights": (make_llama2_checkpoint, {"initializer_range": 0.02}),
    "chaotic weights": (make_llama2_checkpoint, {"initializer_range": 1.0}),
    "bfloat16": (make_llama2_checkpoint, {"dtype": torch.bfloat16}),
    "float16": (make_llama3_checkpoint, {"dtype": torch.float16}),
    "tokenizer.json alone": (make_llama2_checkpoint, {"tokenizer_model": False}),
    "explicit head size": (make_llama3_checkpoint, {"head_dim": 128}),
    "biases": (make_llama2_checkpoint, {"attention_bias": True, "mlp_bias": True}),
    "no grouped queries": (make_llama2_checkpoint, {"num_key_value_heads": 4}),
    "linear RoPE": (make_llama2_checkpoint, {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "yarn": (make_llama2_checkpoint, {"rope_parameters": YARN}),
    "yarn with a factor of its own": (make_llama2_checkpoint, {"rope_parameters": YARN | {"attention_factor": 1.3}}),
    "tied": (make_llama2_checkpoint, {"tie_word_embeddings": True}),
    "padded vocabulary": (make_llama2_checkpoint, {"vocab_size": 576}),
    "short context": (make_llama2_checkpoint, {"max_position_embeddings": 64}),
    "rows of no block": (make_llama2_checkpoint, {"hidden_size": 96, "intermediate_size": 160, "num_attention_heads": 3,
                                                  "num_key_value_heads": 1}),
    "several ends": (make_llama3_checkpoint, {"eos_token_id": [376, 381, 382]}),
}  # fmt: skip
ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one layer": {"layers_to_transform": [1], "target_modules": ["q_proj", "v_proj"]},
    "rsLoRA and patterns": {"use_rslora": True, "rank_pattern": {"k_proj": 8}, "alpha_pattern": {"down_proj": 3}},
    "DoRA": {"use_dora": True},
    "saved embedding and head": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "trained tokens": {"trainable_token_indices": [5, 17, 300]},
    "head": {"target_modules": [*LINEAR, "lm_head"]},
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # the models are so small that threads only wait for each other


def assert_passes(base: Path, folder: Path, types: tuple[str, ...], adapter: Path | None = None) -> dict[str, Any]:
    convert(ConvertConfig(str(base), folder / "gguf", adapter, types=types, name="right"))
    files = tuple(str(folder / "gguf" / f"right-{kind}.gguf") for kind in types)
    output = folder / "certificate.json"
    verify(VerifyConfig(str(base), files, output, adapter, sample=True))
    return json.loads(output.read_text())


@pytest.mark.parametrize("shape", SHAPES)
def test_a_right_file_of_every_shape_passes(shape: str, tmp_path: Path) -> None:
    make, settings = SHAPES[shape]
    found = assert_passes(make(tmp_path / "base", **settings), tmp_path, ("F16", "Q4_K_M"))
    assert found["verdict"] == "pass"
    assert {check["verdict"] for file in found["files"] for check in file["checks"]} == {"pass"}


def test_a_right_file_of_every_kind_of_block_passes(tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base", hidden_size=256, intermediate_size=512)
    kinds = ("Q8_0", "Q5_1", "Q4_0", "Q3_K_L", "Q2_K", "IQ4_NL", "IQ3_S", "TQ1_0", "TQ2_0", "Q2_0", "Q1_0", "MXFP4_MOE")
    assert assert_passes(base, tmp_path, kinds)["verdict"] == "pass"


def test_a_value_that_outweighs_its_row_is_no_fault_of_the_file(tmp_path: Path) -> None:
    """Q8_0 holds such a row more finely than the BF16 file that it was quantized from."""
    base = make_llama2_checkpoint(tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = 70001.0
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    assert assert_passes(base, tmp_path, ("BF16", "Q8_0"))["verdict"] == "pass"


MERGES = [(kind, tied) for kind in ADAPTERS for tied in ("untied", "tied")]
MERGES.remove(("head", "tied"))  # convert refuses a LoRA on one of two tied matrices


@pytest.mark.parametrize(("kind", "tied"), MERGES)
@pytest.mark.filterwarnings("ignore:.*tie:UserWarning", "ignore:.*tied:UserWarning")
def test_a_right_merge_of_every_kind_of_adapter_passes(kind: str, tied: str, tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base", tie_word_embeddings=tied == "tied")
    adapter = make_adapter(base, tmp_path / "adapter", **ADAPTERS[kind])
    found = assert_passes(base, tmp_path, ("F32", "BF16"), adapter)
    assert {file["model"] for file in found["files"]} == {"merged"}
    assert found["adapter"]["sha256"]


def with_added_tokens_json(folder: Path) -> Path:
    """Tokens beside tokenizer.model, as older tools save them: a special one, and one with a space."""
    base = make_llama2_checkpoint(folder, vocab_size=520)
    (base / "added_tokens.json").write_text(json.dumps({"<med>": 512, "<|pad|>": 513, "two words": 514}))
    (base / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<|pad|>"}))
    return base


def with_tokens_added_by_transformers(folder: Path) -> Path:
    base = make_llama3_checkpoint(folder, vocab_size=400)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<dose>", "mg/kg"])
    tokenizer.add_special_tokens({"pad_token": "<|padding|>"})
    tokenizer.save_pretrained(base)
    return base


def with_the_old_spelling_of_rope(folder: Path) -> Path:
    base = make_llama3_checkpoint(folder)
    config = json.loads((base / "config.json").read_text())
    scaling = config.pop("rope_parameters")
    config |= {"rope_theta": scaling.pop("rope_theta"), "rope_scaling": scaling}
    (base / "config.json").write_text(json.dumps(config))
    return base


def with_only_the_head_stored(folder: Path) -> Path:
    base = make_llama2_checkpoint(folder, tie_word_embeddings=True)
    weights = load_file(base / "model.safetensors")
    weights["lm_head.weight"] = weights.pop("model.embed_tokens.weight")
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    return base


UNUSUAL = (
    with_added_tokens_json,
    with_tokens_added_by_transformers,
    with_the_old_spelling_of_rope,
    with_only_the_head_stored,
)


@pytest.mark.parametrize("make", UNUSUAL)
def test_a_right_file_of_an_unusual_checkpoint_passes(make: Callable[[Path], Path], tmp_path: Path) -> None:
    assert assert_passes(make(tmp_path / "base"), tmp_path, ("F16",))["verdict"] == "pass"


GROWN: dict[str, dict[str, Any]] = {
    "saved whole": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "its new rows trained": {"trainable_token_indices": [512, 515]},
    "not trained": {},
}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", GROWN)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_vocabulary_that_grew_in_training_passes(kind: str, tied: bool, tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base", tie_word_embeddings=tied)
    adapter = tmp_path / "adapter"
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(520, mean_resizing=False)
    settings = LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False, **GROWN[kind])
    trained = get_peft_model(model, settings)
    for name, values in trained.named_parameters():
        if "trainable_tokens" in name:
            values.data += 0.1
    trained.save_pretrained(adapter)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<dose>"])
    tokenizer.save_pretrained(adapter)
    assert assert_passes(base, tmp_path, ("F16",), adapter)["verdict"] == "pass"


ADAPTER_FAULTS = ("right", "wrong alpha", "two matrices swapped", "a pair is missing")


@pytest.fixture(scope="module")
def base_and_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter-gguf")
    base = make_llama2_checkpoint(folder / "base")
    adapter = make_adapter(base, folder / "adapter", use_rslora=True)
    convert(ConvertConfig(str(base), folder / "gguf", types=("F16",), name="base"))
    convert(ConvertConfig(str(base), folder / "gguf", adapter, adapter_only=True, types=("F32",), name="right"))
    return folder


@pytest.mark.parametrize("fault", ADAPTER_FAULTS)
def test_an_adapter_gguf_passes_when_right_and_fails_when_not(
    fault: str, base_and_adapter: Path, tmp_path: Path
) -> None:
    folder = base_and_adapter
    content = read(next((folder / "gguf").glob("right-lora-*.gguf")))
    names = sorted(content.tensors)
    if fault == "wrong alpha":
        content.set("adapter.lora.alpha", content.get("adapter.lora.alpha") / 2)
    elif fault == "two matrices swapped":
        content.swap("blk.0.ffn_gate.weight.lora_b", "blk.0.ffn_up.weight.lora_b")
    elif fault == "a pair is missing":
        for name in names[:2]:
            del content.tensors[name]
    write(content, tmp_path / "adapter.gguf")
    output = tmp_path / "certificate.json"
    config = VerifyConfig(str(folder / "base"), (str(folder / "gguf" / "base-F16.gguf"),), output, folder / "adapter",
                          tmp_path / "adapter.gguf", sample=True)  # fmt: skip
    if fault == "right":
        verify(config)
    else:
        with pytest.raises(CheckFailed, match=r"tensors of adapter\.gguf"):
            verify(config)
    base_report, adapter_report = json.loads(output.read_text())["files"]
    assert (base_report["model"], base_report["verdict"]) == ("base", "pass")
    assert (adapter_report["model"], adapter_report["verdict"]) == ("adapter", "pass" if fault == "right" else "fail")
    if fault == "right":
        assert adapter_report["checks"][-1]["name"] == "adapter_gguf"


def test_an_adapter_gguf_needs_a_file_of_the_base(base_and_adapter: Path, tmp_path: Path) -> None:
    folder = base_and_adapter
    convert(ConvertConfig(str(folder / "base"), tmp_path, folder / "adapter", types=("F16",), name="merged"))
    adapter_gguf = next((folder / "gguf").glob("right-lora-*.gguf"))
    config = VerifyConfig(str(folder / "base"), (str(tmp_path / "merged-F16.gguf"),), tmp_path / "certificate.json",
                          folder / "adapter", adapter_gguf, sample=True)  # fmt: skip
    with pytest.raises(CheckFailed, match="adapter_gguf of"):
        verify(config)


def test_missing_files_are_said_before_the_work_begins(tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base")
    with pytest.raises(InputError, match=r"none\.gguf does not exist"):
        verify(VerifyConfig(str(base), (str(tmp_path / "none.gguf"),), tmp_path / "certificate.json"))
    assert not (tmp_path / "certificate.json").exists()
