"""A converted GGUF computes what Transformers computes, for every shape of checkpoint that is taken; the rest is refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file

from convert.checks.gguf_file import read_header
from convert.checks.reference import read_reference
from convert.checks.tensors import check_tensors
from convert.config import FILE_TYPES, UNQUANTIZED, ConvertConfig
from convert.convert import convert, intermediate_type
from medllama.checkpoint import base_digests, base_states
from medllama.errors import InputError, MedllamaError, ResourceError, UnsupportedError
from medllama.files import sha256_file
from medllama.llamacpp import Context, LlamaCppError, Model
from medllama.llamacpp.quantizer import quantize
from tests.adapters import load_base, make_adapter, peft_logits
from tests.checkpoints import make_llama2_checkpoint, make_llama3_checkpoint

# Float32 on both sides: what is left is the order of summing. A wrong row, frequency or scale gives 1e-3 and more.
F32_BOUND = 1e-9
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
SHAPES: dict[str, dict[str, Any]] = {
    "grouped-query attention": {},
    "one key head": {"num_key_value_heads": 1},
    "no grouping": {"num_key_value_heads": 4},
    "explicit head_dim": {"head_dim": 32},
    "wide heads": {"head_dim": 128, "num_attention_heads": 2, "num_key_value_heads": 1},
    "tied": {"tie_word_embeddings": True},
    "attention and MLP biases": {"attention_bias": True, "mlp_bias": True},
    "another RoPE base": {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
    "linear scaling": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    "YaRN": {"rope_parameters": YARN},
    "YaRN with a ramp of its own": {
        "rope_parameters": {**YARN, "beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 0.7}
    },
    "YaRN, not truncated": {"rope_parameters": {**YARN, "truncate": False}},
    "YaRN with mscale": {"rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}},
    "another epsilon": {"rms_norm_eps": 1e-2},
    "padded vocabulary": {"vocab_size": 576},
}


def token_ids(rows: int, count: int = 300) -> list[int]:
    return numpy.random.default_rng(0).integers(3, min(rows, 500), count).tolist()


def divergence(gguf_path: Path, reference: torch.Tensor, ids: list[int], adapter: Path | None = None) -> float:
    """The largest Kullback-Leibler divergence, in nats, of a position's distribution from the reference's."""
    with Model(gguf_path) as model, Context(model, context_tokens=len(ids)) as context:
        if adapter is not None:
            context.set_adapter(model.load_adapter(adapter))
        found = torch.log_softmax(torch.tensor(context.logits(ids)).double(), dim=-1)
    truth = torch.log_softmax(reference.double(), dim=-1)
    return float((truth.exp() * (truth - found)).sum(-1).max())


def run(base: Path, out: Path, types: tuple[str, ...] = ("F32",), **settings: Any) -> Path:
    convert(ConvertConfig(str(base), out, types=types, name="m", **settings))
    return out / f"m-{types[0]}.gguf"


@pytest.mark.parametrize("kind", SHAPES)
def test_every_shape_computes_like_transformers(kind: str, tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base", **SHAPES[kind])
    ids = token_ids(512)
    assert divergence(run(base, tmp_path), peft_logits(base, None, ids), ids) < F32_BOUND


@pytest.mark.parametrize("settings", [{}, {"tie_word_embeddings": True}, {"head_dim": 32}])
def test_llama3_computes_like_transformers(settings: dict[str, Any], tmp_path: Path) -> None:
    base = make_llama3_checkpoint(tmp_path / "base", **settings)
    ids = token_ids(384)
    assert divergence(run(base, tmp_path), peft_logits(base, None, ids), ids) < F32_BOUND


def test_old_rope_spelling_means_the_same(tmp_path: Path) -> None:
    base = make_llama3_checkpoint(tmp_path / "base")
    ids = token_ids(384)
    reference = peft_logits(base, None, ids)
    config = json.loads((base / "config.json").read_text())
    parameters = config.pop("rope_parameters")
    config["rope_theta"] = parameters.pop("rope_theta")
    config["rope_scaling"] = {**parameters, "type": parameters["rope_type"]}
    (base / "config.json").write_text(json.dumps(config))
    assert divergence(run(base, tmp_path), reference, ids) < F32_BOUND


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_untouched_tensors_are_the_bases_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base", dtype=dtype)
    file_type = {torch.float16: "F16", torch.bfloat16: "BF16"}[dtype]
    reader = gguf.GGUFReader(run(base, tmp_path, (file_type,)))
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    stored = load_file(base / "model.safetensors")["model.layers.1.mlp.down_proj.weight"]
    assert bytes(tensors["blk.1.ffn_down.weight"].data) == stored.view(torch.uint8).numpy().tobytes()


def test_a_tied_model_stored_under_its_heads_name_converts(tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base", tie_word_embeddings=True)
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    ids = token_ids(512)
    path = run(base, tmp_path)
    assert divergence(path, peft_logits(base, None, ids), ids) < F32_BOUND
    assert "output.weight" not in {tensor.name for tensor in gguf.GGUFReader(path).tensors}


def test_a_tied_config_with_two_matrices_is_what_transformers_makes_of_it(tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base")
    config = json.loads((base / "config.json").read_text()) | {"tie_word_embeddings": True}
    (base / "config.json").write_text(json.dumps(config))
    ids = token_ids(512)
    assert divergence(run(base, tmp_path), peft_logits(base, None, ids), ids) < F32_BOUND


def test_shards_are_one_model(tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base")
    whole = run(base, tmp_path / "whole").read_bytes()
    load_base(base).save_pretrained(base, max_shard_size="1MB")
    (base / "model.safetensors").unlink()
    assert len(list(base.glob("model-*.safetensors"))) > 1
    assert run(base, tmp_path / "shards").read_bytes() == whole


@pytest.mark.parametrize("file_type", [name for name in FILE_TYPES if name not in UNQUANTIZED])
def test_quantized_bytes_are_llama_cpps(file_type: str, tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base", hidden_size=256, intermediate_size=288)  # 288: no K-quant's rows
    run(base, tmp_path, ("F16",))
    try:
        quantize(tmp_path / "m-F16.gguf", tmp_path / "reference.gguf", FILE_TYPES[file_type])
    except LlamaCppError:
        with pytest.raises(
            UnsupportedError,
            match=f"{file_type} needs an importance matrix|makes no {file_type} of this model: .*no tensor type fallback",
        ):
            run(base, tmp_path, ("F16", file_type))
        return
    run(base, tmp_path, ("F16", file_type))
    assert (tmp_path / f"m-{file_type}.gguf").read_bytes() == (tmp_path / "reference.gguf").read_bytes()


def test_what_divides_into_no_blocks_is_llama_cpps_too(tmp_path: Path) -> None:
    """llama.cpp makes it F16 of the 16-bit file's values, here of bfloat16's: rounded twice. The certificate knows that."""
    base = make_llama2_checkpoint(tmp_path / "base", hidden_size=264, num_attention_heads=4, intermediate_size=257)
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["up_proj", "down_proj"])
    run(base, tmp_path, ("BF16", "Q4_K_M"), adapter=adapter)
    quantize(tmp_path / "m-BF16.gguf", tmp_path / "reference.gguf", FILE_TYPES["Q4_K_M"])
    ours, theirs = (gguf.GGUFReader(tmp_path / name).tensors for name in ("m-Q4_K_M.gguf", "reference.gguf"))
    for one, other in zip(ours, theirs, strict=True):
        assert (one.name, one.tensor_type) == (other.name, other.tensor_type)
        assert one.data.tobytes() == other.data.tobytes(), one.name
    header = read_header(tmp_path / "m-Q4_K_M.gguf")
    weights = read_reference(base, adapter).weights("merged")
    check = check_tensors(header, weights, sample=False, seed=0)
    assert check.verdict == "pass", check.where


def test_quantized_alone_gives_the_same_bytes_and_leaves_nothing_else(tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base")
    run(base, tmp_path / "both", ("F16", "Q4_K_M"))
    run(base, tmp_path / "alone", ("q4_k_m",))
    alone = tmp_path / "alone"
    assert [path.name for path in alone.iterdir()] == ["m-Q4_K_M.gguf"]
    assert (alone / "m-Q4_K_M.gguf").read_bytes() == (tmp_path / "both" / "m-Q4_K_M.gguf").read_bytes()


def test_the_type_that_is_quantized_from_follows_the_rule() -> None:
    assert intermediate_type(["BF16", "Q4_K_M"], "F16") == "BF16"
    assert intermediate_type(["Q4_K_M"], "BF16") == "BF16"
    assert intermediate_type(["F32", "Q4_K_M"], "F32") == "F16"
    assert intermediate_type(["F16", "BF16", "Q4_K_M"], "BF16") == "BF16"


def test_a_bfloat16_base_is_known_by_its_tensors(tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base", dtype=torch.bfloat16, num_hidden_layers=1)
    config = json.loads((base / "config.json").read_text())
    del config["dtype"]
    (base / "config.json").write_text(json.dumps(config))
    summary = convert(ConvertConfig(str(base), tmp_path, types=("Q8_0",), name="m")).summary
    assert summary["quantized_from"] == "BF16"


def test_rope_scaling_replaces_rope_parameters_as_in_transformers(tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base", num_hidden_layers=1)
    config = json.loads((base / "config.json").read_text())
    config["rope_scaling"] = {"type": "linear", "factor": 4.0}
    (base / "config.json").write_text(json.dumps(config))
    ids = token_ids(512)
    assert divergence(run(base, tmp_path), peft_logits(base, None, ids), ids) < F32_BOUND


def test_the_original_context_outside_the_rope_parameters_comes_first(tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base", num_hidden_layers=1, rope_parameters=YARN)
    config = json.loads((base / "config.json").read_text()) | {"original_max_position_embeddings": 128}
    (base / "config.json").write_text(json.dumps(config))
    ids = token_ids(512)
    assert divergence(run(base, tmp_path), peft_logits(base, None, ids), ids) < F32_BOUND


def test_rope_by_layer_is_refused(tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base", num_hidden_layers=1)
    config = json.loads((base / "config.json").read_text())
    config["rope_parameters"] = {"full_attention": config["rope_parameters"]}
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match=r"RoPE differs by layer \(full_attention\)"):
        run(base, tmp_path / "out")


def test_the_licence_is_the_model_cards(tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base", num_hidden_layers=1)
    for card, licence in (
        ("---\nlicense: llama2\n---\n# Base\n", "llama2"),
        ("---\n: [\n---\n", None),
        ("# Base", None),
    ):
        (base / "README.md").write_text(card)
        with Model(run(base, tmp_path), vocab_only=True) as model:
            assert model.metadata("general.license") == licence


def test_a_merged_checkpoint_keeps_each_tensors_own_type(tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base", dtype=torch.float16, num_hidden_layers=1)
    path = base / "model.safetensors"
    tensors = {name: value.float() if "norm" in name else value for name, value in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    run(base, tmp_path, ("safetensors",), adapter=make_adapter(base, tmp_path / "adapter"))
    merged = load_file(tmp_path / "m-safetensors" / "model.safetensors")
    assert {name: value.dtype for name, value in merged.items()} == {
        name: value.dtype for name, value in tensors.items()
    }
    assert torch.equal(merged["model.norm.weight"], tensors["model.norm.weight"])


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base")
    digests = {sha256_file(run(base, tmp_path / name, ("F16", "Q4_K_M"))) for name in "ab"}
    assert len(digests) == 1


@pytest.mark.parametrize(
    "settings", [{}, {"use_rslora": True}, {"alpha_pattern": {"q_proj": 3}, "rank_pattern": {"k_proj": 8}}]
)
def test_an_adapter_gguf_on_the_bases_gguf_computes_like_peft(settings: dict[str, Any], tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter", **settings)
    plain = run(base, tmp_path)
    lora = run(base, tmp_path / "lora", adapter=adapter, adapter_only=True).with_name("m-lora-F32.gguf")
    ids = token_ids(512)
    assert divergence(plain, peft_logits(base, adapter, ids), ids, adapter=lora) < F32_BOUND
    assert divergence(plain, peft_logits(base, adapter, ids), ids) > 1e-4, "without the adapter it must differ"


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
def test_a_lora_on_embedding_or_head_fits_an_adapter_gguf(module: str, tmp_path: Path) -> None:
    """PEFT saves the base's whole matrix beside it, which an adapter GGUF has no room for and no need of."""
    base = make_llama2_checkpoint(tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=[module, "v_proj"])
    assert any(module in name and "lora" not in name for name in load_file(adapter / "adapter_model.safetensors"))
    plain = run(base, tmp_path)
    lora = run(base, tmp_path / "lora", adapter=adapter, adapter_only=True).with_name("m-lora-F32.gguf")
    ids = token_ids(512)
    assert divergence(plain, peft_logits(base, adapter, ids), ids, adapter=lora) < F32_BOUND


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"use_dora": True}, "DoRA's magnitudes"),
        ({"modules_to_save": ["lm_head"]}, "saved modules"),
        ({"trainable_token_indices": [5]}, "trained tokens"),
    ],
)
def test_what_an_adapter_gguf_cannot_hold_says_merge_instead(
    settings: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    base = make_llama2_checkpoint(tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter", **settings)
    with pytest.raises(UnsupportedError, match=reason) as refusal:
        run(base, tmp_path / "lora", adapter=adapter, adapter_only=True)
    assert "merge instead" in refusal.value.hint


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"modules_to_save": ["embed_tokens"]}])
def test_the_merged_checkpoint_is_one_that_transformers_loads(settings: dict[str, Any], tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base", tie_word_embeddings="modules_to_save" in settings)
    adapter = make_adapter(base, tmp_path / "adapter", **settings)
    run(base, tmp_path, ("safetensors",), adapter=adapter)
    ids = token_ids(512)
    merged, reference = peft_logits(tmp_path / "m-safetensors", None, ids), peft_logits(base, adapter, ids)
    assert torch.allclose(merged, reference, atol=1e-4)
    assert (tmp_path / "m-safetensors" / "tokenizer.model").is_file()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"architectures": ["MistralForCausalLM"], "model_type": "mistral"},
            "MistralForCausalLM is not LlamaForCausalLM",
        ),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "RoPE scaling 'dynamic'"),
        ({"rope_parameters": {"rope_type": "longrope", "factor": 2.0, "rope_theta": 1e4}}, "RoPE scaling 'longrope'"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, r"the base is quantized \(bitsandbytes\)"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ],
)
def test_what_is_not_exact_is_refused_by_name(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base")
    config = json.loads((base / "config.json").read_text()) | change
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match=reason):
        run(base, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"rope_parameters": [1, 2]},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": "x"}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": "big"}},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": -2.0}},
        {"rms_norm_eps": "tiny"},
        {"num_key_value_heads": "two"},
        {"head_dim": 1.5},
        {"num_hidden_layers": 10**7},
        {"max_position_embeddings": 10**15},
        {"vocab_size": 10},
        {"vocab_size": True},
        {"vocab_size": 0},
        {"eos_token_id": 512},
        {"eos_token_id": [2, 128001]},
        {"bos_token_id": -1},
        {"pad_token_id": 512},
        {
            "rope_parameters": {
                "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 2.0, "high_freq_factor": 2.0,
                "original_max_position_embeddings": 64,
            }
        },
        {"rope_parameters": {**YARN, "rope_theta": 1.0, "beta_fast": 16.0}},
    ],
)  # fmt: skip
def test_a_wrong_value_in_config_json_is_named(change: dict[str, Any], tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base")
    config = json.loads((base / "config.json").read_text()) | change
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        InputError,
        match=r"not a (table|positive number|whole number)|means 10000000 layers"
        r"|says vocab_size 10|no number for vocab_size|low_freq_factor equals|rope_theta 1"
        r"|(bos|eos|pad)_token_id is .*, and the vocabulary has 512 tokens",
    ):
        run(base, tmp_path / "out")


def test_an_end_of_generation_config_that_is_no_token_is_named(tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base")
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 600]}))
    with pytest.raises(
        InputError, match=r"generation_config.json: eos_token_id is \[2, 600\], and the vocabulary has 512"
    ):
        run(base, tmp_path / "out")


def test_a_pad_token_of_minus_one_is_none(tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base")
    config = json.loads((base / "config.json").read_text()) | {"pad_token_id": -1}
    (base / "config.json").write_text(json.dumps(config))
    assert "tokenizer.ggml.padding_token_id" not in gguf.GGUFReader(run(base, tmp_path)).fields


def test_float16_overflow_says_use_bf16(tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base", dtype=torch.bfloat16)
    change_tensor(base, "model.layers.0.mlp.up_proj.weight", 70000.0)
    with pytest.raises(UnsupportedError, match="float16 ends at 65504") as refusal:
        run(base, tmp_path / "out", ("F16",))
    assert "BF16" in refusal.value.hint
    assert list((tmp_path / "out").iterdir()) == []
    run(base, tmp_path / "out", ("BF16",))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_with_nan_or_infinity_is_refused(value: float, tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base")
    change_tensor(base, "model.layers.0.mlp.up_proj.weight", value)
    with pytest.raises(InputError, match=r"up_proj\.weight holds 1 values that are NaN or infinite"):
        run(base, tmp_path / "out")


def change_tensor(base: Path, name: str, value: float) -> None:
    tensors = load_file(base / "model.safetensors")
    tensors[name][3, 5] = value
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", ["model.layers.1.self_attn.k_proj.weight", "lm_head.weight", "model.norm.weight"])
def test_a_missing_tensor_is_named(name: str, tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    del tensors[name]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=f"{name} is missing"):
        run(base, tmp_path / "out")


def test_a_tensor_too_many_is_refused(tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base")
    tensors = load_file(base / "model.safetensors") | {"model.vision.weight": torch.zeros(2, 2)}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedError, match=r"are not a Llama's, such as model\.vision\.weight"):
        run(base, tmp_path / "out")


@pytest.mark.parametrize("with_states", [True, False])
def test_an_adapter_of_another_base_with_this_shape_is_refused(tmp_path: Path, with_states: bool) -> None:
    base = make_llama2_checkpoint(tmp_path / "base")
    other = make_llama2_checkpoint(tmp_path / "other", seed=5)
    adapter = make_adapter(other, tmp_path / "adapter")
    trained_on = {"files": base_digests(other)} | ({"states": base_states(other)} if with_states else {})
    (adapter / "training.json").write_text(json.dumps({"base": trained_on}))
    run(other, tmp_path / "right", adapter=adapter)
    with pytest.raises(InputError, match=r"was trained on another base: model\.safetensors"):
        run(base, tmp_path / "wrong", adapter=adapter)
    assert list((tmp_path / "wrong").iterdir()) == []


def test_a_base_that_was_copied_is_the_base_and_one_that_was_written_to_is_not(tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter")
    trained_on = {"files": base_digests(base), "states": base_states(base)}
    (adapter / "training.json").write_text(json.dumps({"base": trained_on}))
    weights = base / "model.safetensors"
    os.utime(weights)
    run(base, tmp_path / "copied", adapter=adapter)
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match=r"was trained on another base: model\.safetensors"):
        run(base, tmp_path / "written", adapter=adapter)


def test_a_failure_leaves_no_file_under_a_final_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_llama2_checkpoint(tmp_path / "base")

    def broken_disk(*_: Any, **__: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwrite", broken_disk)
    with pytest.raises(OSError, match="Input/output error"):
        run(base, tmp_path / "out", ("F16", "Q4_K_M"))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_is_found_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_llama2_checkpoint(tmp_path / "base")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 0))  # type: ignore[attr-defined]
    with pytest.raises(ResourceError, match=r"convert needs .* MB on the disk of"):
        run(base, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_metadata_names_only_what_the_run_gives(tmp_path: Path) -> None:
    base = make_llama2_checkpoint(tmp_path / "base")
    with Model(run(base, tmp_path), vocab_only=True) as model:
        assert model.metadata("general.name") == "m"
        assert model.metadata("general.base_model.0.name") == "base"
        assert model.metadata("general.author") is None
        assert model.metadata("general.organization") is None


def test_bad_types_and_names_are_reported_together(tmp_path: Path) -> None:
    config = ConvertConfig("base", tmp_path, types=("Q9_K",), name="../up", adapter_only=True)
    assert [problem.partition(":")[0] for problem in config.problems()] == ["types", "name", "adapter_only"]


def test_every_error_is_one_that_people_can_read(tmp_path: Path) -> None:
    with pytest.raises(MedllamaError) as refusal:
        run(tmp_path / "nowhere", tmp_path / "out")
    assert refusal.value.hint
