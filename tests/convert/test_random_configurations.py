"""Random Llamas with random adapters: every file holds the weights, the numbers and the tokens of the Hugging Face model.

    pytest tests/convert/test_random_configurations.py                             # the same configurations every time
    MEDLLAMA_EXAMPLES=2000 pytest tests/convert/test_random_configurations.py      # others, and as many as asked for

Weights are held against PEFT's merge of the model in float64, with gguf-py's names and the rows of queries and keys put in
order by the definition of the two layouts; logits against Transformers and PEFT in float32; tokens against SentencePiece
where there is `tokenizer.model`, else against Transformers.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
import sentencepiece
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from convert.config import ConvertConfig
from convert.convert import convert
from medllama.llamacpp import Model
from tests.adapters import LINEAR, load_base, make_adapter, peft_logits
from tests.checkpoints import made_up_words, make_llama2_checkpoint, make_llama3_checkpoint, sentences
from tests.convert.test_convert import divergence

EXAMPLES = os.environ.get("MEDLLAMA_EXAMPLES")
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Float32 on both sides; what is left is the order of summing, here over heads and rows of any size.
LOGITS_BOUND = 1e-8
ODD_TEXTS = ("Lithium 25 mg, тест", "a", "gout\n\nx  y", "naïve\t漢字")


@dataclass(frozen=True)
class Configuration:
    """A checkpoint and an adapter as they are drawn; its text is all that is needed to make it again."""

    family: str
    shape: dict[str, Any]
    dtype: str
    float32_norms: bool
    is_tied: bool
    stored_as: str
    rope: dict[str, Any] | None
    rope_spelling: str
    shards: int
    added_tokens: tuple[tuple[str, bool], ...]
    extra_rows: int
    further_ends: tuple[int, ...]
    adapter: dict[str, Any] | None
    adapter_dtype: str
    file_type: str
    seed: int


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    kv_heads, groups = draw(st.sampled_from([1, 2, 3, 4])), draw(st.sampled_from([1, 2, 3]))
    heads = kv_heads * groups
    is_explicit = draw(st.booleans())
    hidden = heads * draw(st.integers(1, 6)) * (4 if is_explicit else 2 * draw(st.integers(1, 6)))
    return {
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_size": hidden,
        "head_dim": 2 * draw(st.integers(1, 33)) if is_explicit else None,
        "intermediate_size": draw(st.one_of(st.integers(1, 300), st.just(256))),
        "attention_bias": draw(st.booleans()),
        "mlp_bias": draw(st.booleans()),
        "rms_norm_eps": draw(st.sampled_from([1e-5, 1e-6, 1e-3])),
    }


@st.composite
def ropes(draw: st.DrawFn) -> dict[str, Any] | None:
    kind = draw(st.sampled_from(["none", "default", "linear", "llama3", "yarn"]))
    if kind == "none":
        return None
    rope = {"rope_type": kind, "rope_theta": draw(st.sampled_from([10000.0, 500000.0, 1234.5]))}
    if kind == "default":
        return rope
    rope["factor"] = draw(st.sampled_from([2.0, 4.0, 8.0, 1.5, 32]))
    if kind != "linear" and draw(st.booleans()):
        rope["original_max_position_embeddings"] = draw(st.sampled_from([16, 64, 100, 256]))
    if kind == "llama3":
        rope |= {
            "low_freq_factor": draw(st.sampled_from([1.0, 2.0])),
            "high_freq_factor": draw(st.sampled_from([4.0, 3])),
        }
    if kind == "yarn":
        options = {
            "beta_fast": st.sampled_from([32.0, 16, 8.0]),
            "beta_slow": st.sampled_from([1.0, 2]),
            "attention_factor": st.sampled_from([0.7, 1.0, 1.3]),
            "mscale": st.sampled_from([1.0, 0.7]),
            "mscale_all_dim": st.sampled_from([1.0, 0.5, 0.0]),
            "truncate": st.booleans(),
        }
        rope |= {name: draw(values) for name, values in options.items() if draw(st.integers(0, 2)) == 0}
    return rope


@st.composite
def adapters(draw: st.DrawFn, shape: dict[str, Any], *, is_tied: bool) -> dict[str, Any] | None:
    """Options of LoraConfig. Left out is what is refused: a LoRA on a tied pair, DoRA on the embedding."""
    if draw(st.integers(0, 4)) == 0:
        return None
    layers = range(shape["num_hidden_layers"])
    options: dict[str, Any] = {
        "r": draw(st.integers(1, 9)),
        "lora_alpha": draw(st.sampled_from([1, 8, 16, 7.5])),
        "use_rslora": draw(st.booleans()),
        "use_dora": draw(st.integers(0, 3)) == 0,
        "target_modules": draw(st.lists(st.sampled_from(LINEAR), min_size=1, unique=True)),
    }
    # The first pattern that matches counts, and PEFT sorts them when it saves: in another order it cannot load its own file.
    names = st.sampled_from([*options["target_modules"], "self_attn.q_proj", "layers.0.mlp.up_proj", ".*_proj"])
    for pattern, values in (("rank_pattern", st.integers(1, 9)), ("alpha_pattern", st.sampled_from([2, 5.5, 32]))):
        if draw(st.booleans()):
            options[pattern] = dict(sorted(draw(st.dictionaries(names, values, max_size=2)).items()))
    if draw(st.integers(0, 2)) == 0:
        options["layers_to_transform"] = draw(st.lists(st.sampled_from(layers), min_size=1, unique=True))
    whole = draw(st.sampled_from([(), (), ("embed_tokens",), ("lm_head",), ("embed_tokens", "lm_head")]))
    if whole:
        options["modules_to_save"] = list(whole)
    elif draw(st.integers(0, 2)) == 0:
        options["trainable_token_indices"] = draw(st.lists(st.integers(0, 370), min_size=1, max_size=9, unique=True))
    elif not is_tied and draw(st.integers(0, 3)) == 0:
        further = ["lm_head"] if options["use_dora"] else ["embed_tokens", "lm_head"]
        options["target_modules"] += draw(st.lists(st.sampled_from(further), min_size=1, unique=True))
    return options


@st.composite
def configurations(draw: st.DrawFn) -> Configuration:
    shape = draw(shapes())
    is_tied = draw(st.booleans())
    added = draw(st.lists(st.sampled_from(["<pad>", "<dose>", "<|im_start|>", "[X]"]), unique=True, max_size=3))
    return Configuration(
        family=draw(st.sampled_from(["tokenizer.model", "tokenizer.json", "llama3"])),
        shape=shape,
        dtype=draw(st.sampled_from(list(DTYPES))),
        float32_norms=draw(st.integers(0, 4)) == 0,
        is_tied=is_tied,
        stored_as=draw(st.sampled_from(["embedding", "head", "both"])),
        rope=draw(ropes()),
        rope_spelling=draw(st.sampled_from(["new", "old", "older"])),
        shards=draw(st.sampled_from([1, 1, 2, 3])),
        added_tokens=tuple((text, draw(st.booleans())) for text in added),
        extra_rows=draw(st.sampled_from([0, 0, 1, 64])),
        further_ends=tuple(draw(st.lists(st.integers(300, 370), max_size=1))),
        adapter=draw(adapters(shape, is_tied=is_tied)),
        adapter_dtype=draw(st.sampled_from(list(DTYPES))),
        file_type=draw(st.sampled_from(["F16", "BF16"])),
        seed=draw(st.integers(0, 99)),
    )


@settings(
    max_examples=int(EXAMPLES or 60),
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(configurations())
@pytest.mark.filterwarnings("ignore")  # PEFT's and Transformers' remarks on what they load are not what is tested
def test_a_random_llama_and_its_adapter_are_the_same_model_as_a_gguf(configuration: Configuration) -> None:
    event(configuration.family)
    with tempfile.TemporaryDirectory() as folder:
        base = make_base(configuration, Path(folder) / "base")
        adapter = make_adapter_of(configuration, base, Path(folder) / "adapter")
        out = Path(folder) / "out"
        convert(ConvertConfig(str(base), out, adapter, ("F32", configuration.file_type, "safetensors"), "m"))
        exact = merged_in_float64(base, adapter)
        untouched = load_base(base).state_dict()
        assert_weights(configuration, out / "m-F32.gguf", exact, untouched, "F32")
        assert_weights(
            configuration, out / f"m-{configuration.file_type}.gguf", exact, untouched, configuration.file_type
        )
        assert_checkpoint(configuration, out / "m-safetensors", exact, untouched)
        assert_numbers(configuration, base, adapter, out)
        assert_tokens(configuration, base, out / "m-F32.gguf")


def make_base(configuration: Configuration, folder: Path) -> Path:
    """The checkpoint, changed on the disk into what people have there."""
    size = 384 if configuration.family == "llama3" else 512
    overrides = configuration.shape | {
        "tie_word_embeddings": configuration.is_tied,
        "vocab_size": size + len(configuration.added_tokens) + configuration.extra_rows,
    }
    if configuration.rope is not None or configuration.family == "llama3":
        overrides["rope_parameters"] = dict(configuration.rope or {"rope_type": "default", "rope_theta": 10000.0})
    options = {"dtype": DTYPES[configuration.dtype], "seed": configuration.seed}
    if configuration.family == "llama3":
        base = make_llama3_checkpoint(folder, **options, **overrides)
    else:
        is_model = configuration.family == "tokenizer.model"
        base = make_llama2_checkpoint(folder, tokenizer_model=is_model, **options, **overrides)
    spell_rope(configuration, base / "config.json")
    store(configuration, base)
    add_tokens(configuration, base, size)
    path = base / "generation_config.json"
    generation = json.loads(path.read_text())
    generation["eos_token_id"] = [generation["eos_token_id"], *configuration.further_ends]
    path.write_text(json.dumps(generation))
    return base


def spell_rope(configuration: Configuration, path: Path) -> None:
    """config.json as Transformers 5, Transformers 4 or its first RoPE scaling wrote it."""
    if configuration.rope_spelling == "new":
        return
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    rope["type" if configuration.rope_spelling == "older" else "rope_type"] = kind
    config["rope_scaling"] = None if kind == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config))


def store(configuration: Configuration, base: Path) -> None:
    """The weights under the names, in the types and in as many files as drawn."""
    single = base / "model.safetensors"
    tensors = load_file(single)
    if configuration.is_tied:
        embedding = tensors.pop("model.embed_tokens.weight", None)
        embedding = tensors.pop("lm_head.weight") if embedding is None else embedding
        if configuration.stored_as != "head":
            tensors["model.embed_tokens.weight"] = embedding
        if configuration.stored_as != "embedding":
            tensors["lm_head.weight"] = embedding.clone()
    if configuration.float32_norms:
        tensors |= {name: value.float() for name, value in tensors.items() if "norm" in name}
    single.unlink()
    if configuration.shards == 1:
        save_file(tensors, single, metadata={"format": "pt"})
        return
    weight_map = {}
    for number in range(configuration.shards):
        name = f"model-{number + 1:05d}-of-{configuration.shards:05d}.safetensors"
        part = {key: tensors[key] for key in sorted(tensors)[number :: configuration.shards]}
        save_file(part, base / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": sum(value.nbytes for value in tensors.values())}, "weight_map": weight_map}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))


def add_tokens(configuration: Configuration, base: Path, first: int) -> None:
    """Added tokens in the file where such a tokenizer keeps them."""
    numbered = enumerate(configuration.added_tokens, start=first)
    entries = {index: {"content": text, "special": is_special} for index, (text, is_special) in numbered}
    if configuration.family == "tokenizer.model":
        path = base / "tokenizer_config.json"
        settings = json.loads(path.read_text())
        settings["added_tokens_decoder"] = {str(index): entry for index, entry in entries.items()}
        path.write_text(json.dumps(settings))
        return
    path = base / "tokenizer.json"
    data = json.loads(path.read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    data["added_tokens"] += [{"id": index, **flags, **entry} for index, entry in entries.items()]
    path.write_text(json.dumps(data))


def make_adapter_of(configuration: Configuration, base: Path, folder: Path) -> Path | None:
    if configuration.adapter is None:
        return None
    adapter = make_adapter(base, folder, seed=configuration.seed, **configuration.adapter)
    path = adapter / "adapter_model.safetensors"
    dtype = DTYPES[configuration.adapter_dtype]
    save_file({name: value.to(dtype) for name, value in load_file(path).items()}, path)
    return adapter


def merged_in_float64(base: Path, adapter: Path | None) -> dict[str, numpy.ndarray]:
    """PEFT's merge of the model in float64, by Hugging Face name; a tied head that is the embedding is left out."""
    model: Any = load_base(base, torch.float64)
    if adapter is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    tensors = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    if model.config.tie_word_embeddings and numpy.array_equal(
        tensors["model.embed_tokens.weight"], tensors["lm_head.weight"]
    ):
        del tensors["lm_head.weight"]
    return tensors


def assert_weights(
    configuration: Configuration,
    path: Path,
    exact: dict[str, numpy.ndarray],
    untouched: dict[str, torch.Tensor],
    file_type: str,
) -> None:
    """Every tensor, once, under llama.cpp's name: the base's own values rounded once, or within the bounds of a merge."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, configuration.shape["num_hidden_layers"])
    expected = {names.get_name(name, try_suffixes=(".weight", ".bias")): name for name in exact}
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert found.keys() - {"rope_freqs.weight"} == expected.keys()
    merged = equal = 0
    for name, source in expected.items():
        truth, base = (
            in_llama_cpp_order(values, source, configuration) for values in (exact[source], untouched[source].numpy())
        )
        kind = file_type if truth.ndim > 1 else "F32"
        assert found[name].tensor_type.name == kind
        values = gguf.dequantize(found[name].data, found[name].tensor_type).reshape(truth.shape)
        if truth.shape == base.shape and numpy.array_equal(truth, base):
            assert numpy.array_equal(values, rounded(base, kind)), f"{source} is untouched"
        elif kind == "F32":
            largest = row_size(truth, base)
            assert (numpy.abs(values - truth) <= 1e-6 * largest).all(), source
        else:
            steps = numpy.abs(ordinal(values, kind) - ordinal(rounded(truth, kind), kind))
            largest = row_size(truth, base)
            # Where terms cancel, a float32 error of the row's size can be several steps of a value near zero.
            assert ((steps <= 1) | (numpy.abs(values - truth) <= 1e-6 * largest)).all(), source
            merged, equal = merged + steps.size, equal + int((steps == 0).sum())
    # Of a few hundred values one or two may lie so near the middle between two steps that float32 decides otherwise.
    assert merged - equal <= max(3, 0.001 * merged), f"{equal} of {merged} are equal"


def row_size(truth: numpy.ndarray, base: numpy.ndarray) -> numpy.ndarray:
    """The largest value of each row; of the base too, since in the few columns drawn here all of a row may cancel."""
    both = (truth, base) if truth.shape == base.shape else (truth,)
    return numpy.max([numpy.abs(values).max(axis=-1, keepdims=True) for values in both], axis=0)


def in_llama_cpp_order(values: numpy.ndarray, source: str, configuration: Configuration) -> numpy.ndarray:
    """Rows 2j and 2j + 1 of a query's or key's head are its rows j and j + half in Transformers."""
    if ".q_proj" not in source and ".k_proj" not in source:
        return values
    heads = configuration.shape["num_attention_heads" if ".q_proj" in source else "num_key_value_heads"]
    size = len(values) // heads
    return values[[head * size + row // 2 + row % 2 * size // 2 for head in range(heads) for row in range(size)]]


def rounded(values: numpy.ndarray, kind: str) -> numpy.ndarray:
    """Values rounded once to a file's type, as float32; by PyTorch, which is no part of the converter."""
    return torch.from_numpy(numpy.ascontiguousarray(values)).to(DTYPES[kind]).float().numpy()


def ordinal(values: numpy.ndarray, kind: str) -> numpy.ndarray:
    """The number of a 16-bit value in the order of all of them: neighbors differ by one."""
    bits = torch.from_numpy(values).to(DTYPES[kind]).view(torch.int16).numpy().astype(int)
    return numpy.where(bits < 0, -(bits & 0x7FFF), bits)


def assert_checkpoint(
    configuration: Configuration, folder: Path, exact: dict[str, numpy.ndarray], untouched: dict[str, torch.Tensor]
) -> None:
    """The merged checkpoint is one that Transformers loads, with the same tensors in the base's own dtype."""
    loaded = load_base(folder).state_dict()
    for name, truth in exact.items():
        largest = row_size(truth, untouched[name].numpy())
        step = {"F32": 1e-6, "F16": 2**-11, "BF16": 2**-8}[configuration.dtype]
        assert (numpy.abs(loaded[name].numpy() - truth) <= 1.01 * step * largest).all(), name


def assert_numbers(configuration: Configuration, base: Path, adapter: Path | None, out: Path) -> None:
    """llama.cpp's logits are those of Transformers and PEFT; also with the adapter beside the base's file."""
    ids = numpy.random.default_rng(configuration.seed).integers(3, 384, 150).tolist()
    reference = peft_logits(base, adapter, ids)
    assert divergence(out / "m-F32.gguf", reference, ids) < LOGITS_BOUND
    options = configuration.adapter or {}
    is_plain = not options.get("use_dora") and set(options.get("target_modules", [])) <= set(LINEAR)
    if adapter is None or not is_plain or options.keys() & {"modules_to_save", "trainable_token_indices"}:
        return
    convert(ConvertConfig(str(base), out, None, ("F32",), "base"))
    convert(ConvertConfig(str(base), out, adapter, ("F32",), "m", adapter_only=True))
    assert divergence(out / "base-F32.gguf", reference, ids, out / "m-lora-F32.gguf") < LOGITS_BOUND


def assert_tokens(configuration: Configuration, base: Path, path: Path) -> None:
    texts = [*sentences()[configuration.seed :: 40], *made_up_words(configuration.seed), *ODD_TEXTS]
    if configuration.family == "tokenizer.model":
        processor = sentencepiece.SentencePieceProcessor(model_file=str(base / "tokenizer.model"))
        truth = [processor.encode(text) for text in texts]
    else:
        tokenizer = AutoTokenizer.from_pretrained(base)
        truth = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    with Model(path, vocab_only=True) as model:
        assert [model.tokenize(text) for text in texts] == truth
        for index in json.loads((base / "generation_config.json").read_text())["eos_token_id"]:
            assert model.is_end(index)
        for text, _ in configuration.added_tokens:
            assert len(model.tokenize(text, parse_special=True)) == 1
