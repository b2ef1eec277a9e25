"""Check 2: the metadata, field by field, against config.json, generation_config.json and the tokenizer's settings.

RoPE is compared by what it does (`rope.py`), everything else by value. A key of the architecture or the tokenizer that is not known
here is a failure too: llama.cpp might read it. Texts, types, scores and merges of the tokens are the tokenizer check's, the chat
template is the prompts check's. Of `general.*` llama.cpp and Ollama read the architecture, the type of the file and of its values,
and sampling settings; the rest says where the model comes from (name, licence, base, data sets), and is nobody's to check here.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from convert.certificate import Check, failed
from convert.checks import rope
from convert.checks.ends import Ends
from convert.checks.gguf_file import TENSOR_TYPES, Header
from convert.checks.reference import ROPE_FACTORS, Weights, rope_type
from convert.checks.tokens import Table
from convert.config import FILE_TYPES, UNQUANTIZED
from medllama.files import read_json

REASON = "the same numbers, or another model"
SMALLEST_BLOCK = 32  # values, of Q4_0 to Q8_0
QUANTIZATION_VERSION = 2  # of the blocks' layout: GGML_QNT_VERSION in ggml.h
# Both sides compute the angles in float32, from powers of the base: a few units in its last place apart. Faults are 1e-3 and more.
ROPE_BOUND = 1e-5

# The types that a value may have in the file: numbers of metadata are unsigned integers, floats, booleans or strings.
INTEGERS, FLOATS, BOOLEAN, TEXT = (0, 1, 2, 3, 4, 5, 10, 11), (6, 12), (7,), (8,)

# A wrong value of these, or a key that is not known here, can end the process inside llama.cpp (an assertion, a division by
# zero): such a file is not opened.
DANGEROUS = frozenset(
    (
        "general.architecture", "llama.block_count", "llama.embedding_length", "llama.feed_forward_length", "llama.vocab_size",
        "llama.attention.head_count", "llama.attention.head_count_kv", "llama.attention.key_length",
        "llama.attention.value_length", "llama.rope.dimension_count", "llama.rope.scaling.type", "tokenizer.ggml.model",
        "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.scores", "llama.attention.causal",
    )
)  # fmt: skip

# All have their truth below but llama.rope.scaling.finetuned and yarn_*: llama.cpp does nothing with them for this architecture.
KNOWN_KEYS = frozenset(
    (
        "llama.block_count", "llama.context_length", "llama.embedding_length", "llama.feed_forward_length", "llama.vocab_size",
        "llama.attention.head_count", "llama.attention.head_count_kv", "llama.attention.key_length", "llama.attention.value_length",
        "llama.attention.layer_norm_rms_epsilon", "llama.attention.causal", "llama.rope.dimension_count", "llama.rope.freq_base",
        "llama.rope.scale_linear", "llama.rope.scaling.type", "llama.rope.scaling.factor", "llama.rope.scaling.attn_factor",
        "llama.rope.scaling.original_context_length", "llama.rope.scaling.finetuned", "llama.rope.scaling.yarn_beta_fast",
        "llama.rope.scaling.yarn_beta_slow", "llama.rope.scaling.yarn_ext_factor", "llama.rope.scaling.yarn_attn_factor",
        "tokenizer.chat_template", "tokenizer.ggml.model", "tokenizer.ggml.pre",
        "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.scores", "tokenizer.ggml.merges",
        "tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token", "tokenizer.ggml.add_sep_token",
        "tokenizer.ggml.add_space_prefix",
        *(f"tokenizer.ggml.{name}_token_id" for name in (
            "bos", "eos", "eot", "eom", "unknown", "padding", "seperator", "cls", "mask", "prefix", "suffix", "middle",
            "fim_pre", "fim_suf", "fim_mid",
        )),
    )
)  # fmt: skip

# The tokens of filling in the middle, which Code Llama has, are known by their texts.
MIDDLE = {"prefix": "pre", "suffix": "suf", "middle": "mid", "fim_pre": "pre", "fim_suf": "suf", "fim_mid": "mid"}
END_OF_TURN = "<|eot_id|>"
# Of sampling settings; the others have generation_config.json's own names.
SAMPLING = {"temp": "temperature", "penalty_repeat": "repetition_penalty"}


@dataclass(frozen=True)
class Field:
    """One value: what the file says, what is right, and the types that it may have there."""

    key: str
    found: Any
    truth: Any
    kinds: tuple[int, ...]
    cause: str = ""

    def is_right(self, header: Header) -> bool:
        if self.key in header.value_types and header.value_types[self.key] not in self.kinds:
            return False
        if isinstance(self.truth, float) and isinstance(self.found, int | float):
            return math.isclose(self.found, self.truth, rel_tol=1e-6)
        return bool(self.found == self.truth) and isinstance(self.found, bool) == isinstance(self.truth, bool)


def check_metadata(header: Header, weights: Weights, table: Table, ends: Ends) -> tuple[Check, bool]:
    """The check, and whether llama.cpp may be given the file."""
    wrong: list[tuple[str, str]] = []
    fields = [*_architecture(header, weights), *_tokenizer(header, table, ends), *_general(header, weights)]
    for entry in fields:
        if not entry.is_right(header):
            cause = f" ({entry.cause})" if entry.cause else ""
            wrong.append((entry.key, f"{entry.key} is {entry.found!r}, and it is {entry.truth!r}{cause}"))
    wrong += _lengths(header, weights.vocabulary_rows, table)
    unknown = _unknown_keys(header)
    wrong += unknown
    rope_check, difference = _rope(header, weights)
    wrong += rope_check
    count = len(fields) + 1
    details = {"fields": count, "rope_angle_difference": difference}
    if not wrong:
        return Check("metadata", "pass", f"0 of {count} fields differ", "0", REASON, details=details), True
    is_safe = not unknown and not any(key in DANGEROUS for key, _ in wrong)
    check = failed("metadata", "; ".join(cause for _, cause in wrong[:4]), where=", ".join(key for key, _ in wrong[:8]),
                   figure=f"{len(wrong)} of {count} fields differ", bound="0", reason=REASON)  # fmt: skip
    return check, is_safe


def _architecture(header: Header, weights: Weights) -> list[Field]:
    config, head_dim = weights.reference.config, weights.reference.head_dim
    metadata = header.metadata
    get = metadata.get
    heads, width = config.num_attention_heads, config.hidden_size
    # Keys that may be left out have llama.cpp's default in their place.
    stored_heads = get("llama.attention.head_count")
    default_head = width // stored_heads if isinstance(stored_heads, int) and stored_heads > 0 else 0
    fields = [
        Field("general.architecture", get("general.architecture"), "llama", TEXT),
        Field("llama.block_count", get("llama.block_count"), config.num_hidden_layers, INTEGERS),
        Field("llama.context_length", get("llama.context_length"), config.max_position_embeddings, INTEGERS),
        Field("llama.embedding_length", get("llama.embedding_length"), width, INTEGERS),
        Field("llama.feed_forward_length", get("llama.feed_forward_length"), config.intermediate_size, INTEGERS),
        Field("llama.attention.head_count", stored_heads, heads, INTEGERS),
        Field("llama.attention.head_count_kv", get("llama.attention.head_count_kv", stored_heads),
              config.num_key_value_heads, INTEGERS),
        Field("llama.attention.key_length", get("llama.attention.key_length", default_head), head_dim, INTEGERS),
        Field("llama.attention.value_length", get("llama.attention.value_length", default_head), head_dim, INTEGERS),
        Field("llama.rope.dimension_count", get("llama.rope.dimension_count", head_dim), head_dim, INTEGERS),
        Field("llama.attention.layer_norm_rms_epsilon", get("llama.attention.layer_norm_rms_epsilon"),
              float(np.float32(config.rms_norm_eps)), FLOATS),
        Field("llama.attention.causal", get("llama.attention.causal", True), True, BOOLEAN),
        Field("llama.vocab_size", get("llama.vocab_size", weights.vocabulary_rows), weights.vocabulary_rows, INTEGERS),
    ]  # fmt: skip
    if (key := "llama.rope.scaling.original_context_length") in metadata and rope_type(config) == "yarn":
        name = "original_max_position_embeddings"
        context = getattr(config, name, None) or config.rope_parameters.get(name) or config.max_position_embeddings
        fields.append(Field(key, metadata[key], context, INTEGERS))
    return fields + _file_type(header)


def _file_type(header: Header) -> list[Field]:
    """The file's own name of its type: people choose by it, and Ollama shows it."""
    key, found = "general.file_type", header.metadata.get("general.file_type")
    matrices = [tensor for tensor in header.tensors.values() if len(tensor.shape) > 1]
    types = {tensor.type for tensor in matrices}
    name = file_type_of(header)
    # Where no row divides into blocks, llama.cpp makes every matrix F16 and keeps the name of what was asked for.
    has_blocks = any(tensor.shape[-1] % SMALLEST_BLOCK == 0 for tensor in matrices)
    is_all_odd = types == {"F16"} and not has_blocks and name is not None and name not in UNQUANTIZED
    if len(types) == 1 and (only := next(iter(types))) in UNQUANTIZED and not is_all_odd:
        return [Field(key, found, FILE_TYPES[only], INTEGERS, f"its matrices are {only}")]
    if name is None or name in UNQUANTIZED:
        return [Field(key, found, "a quantized type", INTEGERS, f"its matrices are {', '.join(sorted(types))}")]
    # Q4_K_M is a mixture around Q4_K; where a row is no multiple of the block, llama.cpp takes another type.
    stem = re.sub(r"_(XS|S|M|L)$", "", name)
    block = next((values for kind, values, _ in TENSOR_TYPES.values() if kind == stem), None)
    is_possible = block is not None and all(tensor.shape[-1] % block == 0 for tensor in matrices)
    is_right = not is_possible or stem in types
    return [Field(key, found, found if is_right else f"a type without {stem}", INTEGERS, f"no matrix is {stem}")]


def file_type_of(header: Header) -> str | None:
    """llama.cpp's name of the file's type; None where the file has no number for it, or an unknown one."""
    number = header.metadata.get("general.file_type")
    return next((name for name, value in FILE_TYPES.items() if value == number), None)


def _tokenizer(header: Header, table: Table, ends: Ends) -> list[Field]:
    metadata, prefix = header.metadata, "tokenizer.ggml."
    get = metadata.get
    is_byte_level = table.model == "gpt2"
    pre = get(prefix + "pre", "")
    # What llama.cpp takes where the file says nothing (llama_vocab::impl::load).
    default_bos = (is_byte_level and pre in ("llama3", "llama-v3", "llama-bpe")) or not is_byte_level
    fields = [
        Field(prefix + "model", get(prefix + "model"), table.model, TEXT),
        Field(prefix + "add_bos_token", get(prefix + "add_bos_token", default_bos), ends.add_bos, BOOLEAN,
              "BOS would be missing or come twice"),
        Field(prefix + "add_eos_token", get(prefix + "add_eos_token", False), ends.add_eos, BOOLEAN,
              "every prompt would end before the answer begins"),
        Field(prefix + "add_sep_token", get(prefix + "add_sep_token", False), False, BOOLEAN),
        Field(prefix + "add_space_prefix", get(prefix + "add_space_prefix", not is_byte_level), table.adds_space, BOOLEAN),
    ]  # fmt: skip
    if table.pre:
        found = get(prefix + "pre", "" if is_byte_level else "default")
        fields.append(Field(prefix + "pre", found, found if found in table.pre else table.pre[0], TEXT))
    return fields + _token_ids(header, table, ends)


def _token_ids(header: Header, table: Table, ends: Ends) -> list[Field]:
    """The ids of special tokens. Where they are not given, BOS and EOS have a default in llama.cpp; the others are not needed."""
    metadata, prefix = header.metadata, "tokenizer.ggml."
    get, fields = metadata.get, []
    defaults = (11, 11) if table.model == "gpt2" else (1, 2)
    for name, truth, default in (("bos", ends.bos, defaults[0]), ("eos", ends.eos, defaults[1])):
        if truth is not None:
            fields.append(Field(f"{prefix}{name}_token_id", get(f"{prefix}{name}_token_id", default), truth, INTEGERS))
    for key, value in metadata.items():
        if not (key.startswith(prefix) and key.endswith("_token_id")):
            continue
        name = key.removeprefix(prefix).removesuffix("_token_id")
        if not _is_id(value, header.count(prefix + "tokens")):
            fields.append(Field(key, value, "an id of the vocabulary", INTEGERS))
        elif name in ends.others:
            fields.append(Field(key, value, ends.others[name], INTEGERS))
        elif name == "eot" and END_OF_TURN in table.texts:
            fields.append(Field(key, value, table.texts.index(END_OF_TURN), INTEGERS))
        elif name in ("eot", "eom"):
            is_end = value in ends.all_ends
            fields.append(Field(key, value, value if is_end else f"one of {list(ends.all_ends)}", INTEGERS))
        elif name in MIDDLE:
            text = table.texts[value] if value < len(table.texts) else ""
            is_right = MIDDLE[name] in text.lower()
            fields.append(Field(key, value, value if is_right else f"not {text!r}", INTEGERS))
    return fields


def _general(header: Header, weights: Weights) -> list[Field]:
    """What llama.cpp and Ollama read of the file as a whole, where it is given."""
    path = weights.reference.base / "generation_config.json"
    generation = read_json(path) if path.is_file() else {}
    truths = {"general.type": ("model", TEXT), "general.quantization_version": (QUANTIZATION_VERSION, INTEGERS)}
    for key in header.metadata:
        if key.startswith("general.sampling."):
            name = key.removeprefix("general.sampling.")
            truths[key] = (generation.get(SAMPLING.get(name, name)), (*INTEGERS, *FLOATS, *TEXT))
    given = header.metadata
    return [Field(key, given[key], truth, kinds) for key, (truth, kinds) in truths.items() if key in given]


def _is_id(value: Any, count: int) -> bool:
    return isinstance(value, int) and 0 <= value < count


def _lengths(header: Header, rows: int, table: Table) -> list[tuple[str, str]]:
    """Lists of the tokenizer whose length or kind is not that of the vocabulary."""
    wanted: dict[str, tuple[int, ...]] = {"tokens": (108,), "token_type": (104, 105)}
    if table.model == "llama":
        wanted["scores"] = (106,)
    wrong = []
    for name, types in wanted.items():
        key = f"tokenizer.ggml.{name}"
        if header.count(key) != rows or header.value_types.get(key) not in types:
            wrong.append((key, f"{key} has {header.count(key)} entries, and the embedding {rows} rows"))
    return wrong


def _unknown_keys(header: Header) -> list[tuple[str, str]]:
    judged = [key for key in header.metadata if key.startswith(("llama.", "tokenizer."))]
    return [(key, f"the key {key} is none that this model needs") for key in judged if key not in KNOWN_KEYS]


def _rope(header: Header, weights: Weights) -> tuple[list[tuple[str, str]], float]:
    """What is wrong with RoPE, and the largest relative difference of an angle."""
    key, kind = "llama.rope.scaling.type", header.metadata.get("llama.rope.scaling.type", "linear")
    if kind not in ("none", "linear", "yarn"):
        return [(key, f"{key} is {kind!r}: llama.cpp would stop, or scale otherwise")], math.inf
    factors = None
    if (tensor := header.tensors.get(ROPE_FACTORS)) is not None:
        if tensor.type != "F32" or len(tensor.shape) != 1:
            return [(ROPE_FACTORS, f"{ROPE_FACTORS} is {tensor.type} {tensor.shape}, not a float32 vector")], math.inf
        factors = header.read_rows(tensor).view("<f4").reshape(-1).astype(np.float64)
    truth = rope.of_hugging_face(weights.reference.config)
    found = rope.of_gguf(header.metadata, weights.reference.head_dim, factors)
    difference, worst = rope.largest_difference(truth, found)
    wrong = []
    if not difference <= ROPE_BOUND:
        where = "llama.rope.*" if factors is None else f"llama.rope.*, {ROPE_FACTORS}"
        angle = f"{found.angles[worst]:.6g} radians a position, and it is {truth.angles[worst]:.6g}"
        wrong.append((where, f"RoPE's pair {worst} turns by {angle}: its base, scaling or factors are wrong"))
    if not math.isclose(found.magnitude, truth.magnitude, rel_tol=ROPE_BOUND):
        cause = f"RoPE's magnitude is {found.magnitude:g}, and it is {truth.magnitude:g}"
        wrong.append(("llama.rope.scaling.attn_factor", cause))
    return wrong, difference
