"""Faults that converters and packagers really make, planted one at a time into right GGUF files.

    for fault in FAULTS: fault.plant(gguf) makes a right file wrong; fault.check is the check that must say so

A file is read with gguf-py, changed in memory and written again with gguf-py, so that a planted file is well-formed but for
its fault.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np

Array = np.ndarray[Any, Any]
TOKENIZER = "tokenizer.ggml."


@dataclass
class Gguf:
    """A GGUF in memory: metadata as (value, type, element type), tensors as (rows, row_bytes) or flat arrays with their type.

    `base` is the right file without the adapter, of the same type, where a fault needs it."""

    values: dict[str, tuple[Any, gguf.GGUFValueType, gguf.GGUFValueType | None]]
    tensors: dict[str, tuple[Array, gguf.GGMLQuantizationType]]
    base: Gguf | None = field(default=None, repr=False)

    def get(self, key: str) -> Any:
        return self.values[key][0]

    def set(self, key: str, value: Any, kind: gguf.GGUFValueType | None = None) -> None:
        """Change a value, keeping its type; `kind` is for a new key."""
        old = self.values.get(key)
        self.values[key] = (value, kind or old[1], old[2] if old else None)  # type: ignore[index]

    def remove(self, key: str) -> None:
        del self.values[key]

    def tensor(self, name: str) -> Array:
        """A float tensor's values, to be changed in place."""
        return self.tensors[name][0]

    def put(self, name: str, values: Array) -> None:
        """Replace a tensor, rounded to the type that it had."""
        old, kind = self.tensors[name]
        self.tensors[name] = (np.ascontiguousarray(values.astype(old.dtype)), kind)

    def swap(self, first: str, second: str) -> None:
        self.tensors[first], self.tensors[second] = self.tensors[second], self.tensors[first]

    def id(self, token: str) -> int:
        return int(self.get(TOKENIZER + "tokens").index(token))

    def change_item(self, key: str, index: int, value: Any) -> None:
        items = list(self.get(key))
        items[index] = value
        self.set(key, items)


def read(path: Path, base: Path | None = None) -> Gguf:
    reader = gguf.GGUFReader(path)
    values = {}
    for key, entry in reader.fields.items():
        if not key.startswith("GGUF."):
            values[key] = (entry.contents(), entry.types[0], entry.types[-1] if len(entry.types) > 1 else None)
    tensors = {tensor.name: (np.array(tensor.data), tensor.tensor_type) for tensor in reader.tensors}
    return Gguf(values, tensors, read(base) if base is not None else None)


def write(content: Gguf, path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.kv_data[0].clear()
    for key, (value, kind, element) in content.values.items():
        writer.add_key_value(key, value, kind, element)
    for name, (data, kind) in content.tensors.items():
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@dataclass(frozen=True)
class Fault:
    """One fault. `family` and `kind` choose the right file that it is planted in; `check` must catch it."""

    name: str
    check: str
    plant: Callable[[Gguf], None]
    family: str = "both"
    kind: str = "F16"


FAULTS: list[Fault] = []


def fault(
    check: str, *, family: str = "both", kind: str = "F16"
) -> Callable[[Callable[[Gguf], None]], Callable[[Gguf], None]]:
    """Enter a function among the faults under its own name."""

    def enter(plant: Callable[[Gguf], None]) -> Callable[[Gguf], None]:
        FAULTS.append(Fault(plant.__name__, check, plant, family, kind))
        return plant

    return enter


def rotated(values: Array, heads: int, *, back: bool) -> Array:
    """Rows put into llama.cpp's RoPE order as converters do it, or `back` out of it."""
    parts = (heads, values.shape[0] // heads // 2, 2) if back else (heads, 2, values.shape[0] // heads // 2)
    return values.reshape(*parts, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def heads_of(content: Gguf) -> tuple[int, int]:
    return content.get("llama.attention.head_count"), content.get("llama.attention.head_count_kv")


# Tensors


@fault("tensors")
def query_rows_not_permuted(content: Gguf) -> None:
    content.put("blk.0.attn_q.weight", rotated(content.tensor("blk.0.attn_q.weight"), heads_of(content)[0], back=True))


@fault("tensors")
def key_rows_not_permuted(content: Gguf) -> None:
    content.put("blk.1.attn_k.weight", rotated(content.tensor("blk.1.attn_k.weight"), heads_of(content)[1], back=True))


@fault("tensors")
def query_rows_permuted_twice(content: Gguf) -> None:
    content.put("blk.0.attn_q.weight", rotated(content.tensor("blk.0.attn_q.weight"), heads_of(content)[0], back=False))


@fault("tensors")
def key_rows_permuted_with_the_number_of_query_heads(content: Gguf) -> None:
    name = "blk.0.attn_k.weight"
    plain = rotated(content.tensor(name), heads_of(content)[1], back=True)
    content.put(name, rotated(plain, heads_of(content)[0], back=False))


@fault("tensors")
def layers_swapped(content: Gguf) -> None:
    for name in [name for name in content.tensors if name.startswith("blk.0.")]:
        content.swap(name, name.replace("blk.0.", "blk.1."))


@fault("tensors")
def gate_and_up_swapped(content: Gguf) -> None:
    content.swap("blk.0.ffn_gate.weight", "blk.0.ffn_up.weight")


@fault("tensors")
def keys_and_values_swapped(content: Gguf) -> None:
    content.swap("blk.1.attn_k.weight", "blk.1.attn_v.weight")


@fault("tensors")
def norms_swapped(content: Gguf) -> None:
    content.swap("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight")


@fault("tensors")
def norm_without_its_values(content: Gguf) -> None:
    content.tensor("output_norm.weight")[:] = 1.0


@fault("tensors")
def norm_with_one_added(content: Gguf) -> None:
    content.tensor("output_norm.weight")[:] += 1.0


@fault("tensors")
def tensor_zeroed(content: Gguf) -> None:
    content.tensor("blk.1.ffn_down.weight")[:] = 0


@fault("tensors")
def tensor_scaled(content: Gguf) -> None:
    content.put("blk.1.attn_v.weight", content.tensor("blk.1.attn_v.weight") * 1.02)


@fault("tensors")
def tensor_transposed(content: Gguf) -> None:
    content.put("blk.0.attn_output.weight", content.tensor("blk.0.attn_output.weight").T)


@fault("tensors")
def tensor_of_another_layer(content: Gguf) -> None:
    content.tensors["blk.1.attn_v.weight"] = content.tensors["blk.0.attn_v.weight"]


@fault("tensors")
def one_row_zeroed(content: Gguf) -> None:
    content.tensor("blk.0.ffn_up.weight")[17] = 0


@fault("tensors")
def one_value_damaged(content: Gguf) -> None:
    content.tensor("blk.1.attn_output.weight")[3, 5] *= -1


@fault("tensors")
def embedding_shifted_by_a_token(content: Gguf) -> None:
    content.put("token_embd.weight", np.roll(content.tensor("token_embd.weight"), 1, axis=0))


@fault("tensors")
def head_replaced_by_the_embedding(content: Gguf) -> None:
    content.tensors["output.weight"] = content.tensors["token_embd.weight"]


@fault("tensors", kind="BF16")
def bfloat16_cut_and_not_rounded(content: Gguf) -> None:
    assert content.base is not None
    data, kind = content.tensors["blk.0.ffn_gate.weight"]
    exact = content.base.tensor("blk.0.ffn_gate.weight").astype(np.float32)  # the base in F32
    content.tensors["blk.0.ffn_gate.weight"] = (
        (exact.view(np.uint32) >> 16).astype(np.uint16).view(data.dtype).reshape(data.shape),
        kind,
    )


@fault("tensors", kind="Q8_0")
def query_rows_not_permuted_and_quantized(content: Gguf) -> None:
    query_rows_not_permuted(content)


@fault("tensors", kind="Q4_K_M")
def two_rows_swapped_and_quantized(content: Gguf) -> None:
    rows = content.tensor("token_embd.weight")
    rows[[40, 41]] = rows[[41, 40]]


@fault("tensors", kind="Q4_K_M")
def quantized_tensor_of_another_layer(content: Gguf) -> None:
    content.tensors["blk.0.ffn_gate.weight"] = content.tensors["blk.1.ffn_gate.weight"]


# The adapter


def _with_share(content: Gguf, name: str, share: float) -> None:
    """The tensor with `share` times the adapter's change: 1 is right."""
    assert content.base is not None
    base = content.base.tensor(name).astype(np.float32)
    content.put(name, base + share * (content.tensor(name).astype(np.float32) - base))


@fault("tensors", kind="merged")
def adapter_missing(content: Gguf) -> None:
    for name in content.tensors:
        _with_share(content, name, 0.0)


@fault("tensors", kind="merged")
def adapter_missing_in_one_matrix(content: Gguf) -> None:
    _with_share(content, "blk.1.ffn_up.weight", 0.0)


@fault("tensors", kind="merged")
def adapter_merged_twice(content: Gguf) -> None:
    for name in content.tensors:
        _with_share(content, name, 2.0)


@fault("tensors", kind="merged")
def adapter_scaled_by_alpha_alone(content: Gguf) -> None:
    for name in content.tensors:
        _with_share(content, name, 8.0)  # rank 8


@fault("tensors", kind="merged")
def adapter_scaled_as_rslora(content: Gguf) -> None:
    for name in content.tensors:
        _with_share(content, name, 8.0**0.5)  # alpha / sqrt(r) for alpha / r


@fault("tensors", kind="merged")
def adapter_rows_not_permuted(content: Gguf) -> None:
    assert content.base is not None
    name = "blk.0.attn_q.weight"
    base = content.base.tensor(name).astype(np.float32)
    change = content.tensor(name).astype(np.float32) - base
    content.put(name, base + rotated(change, heads_of(content)[0], back=True))


@fault("tensors", kind="merged")
def adapter_on_the_wrong_matrix(content: Gguf) -> None:
    assert content.base is not None
    changes = {}
    for name in ("blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"):
        base = content.base.tensor(name).astype(np.float32)
        changes[name] = (base, content.tensor(name).astype(np.float32) - base)
    (gate, gate_change), (up, up_change) = changes.values()
    content.put("blk.0.ffn_gate.weight", gate + up_change)
    content.put("blk.0.ffn_up.weight", up + gate_change)


# The file


@fault("file")
def tensor_missing(content: Gguf) -> None:
    del content.tensors["blk.1.attn_norm.weight"]


@fault("file")
def head_missing(content: Gguf) -> None:
    del content.tensors["output.weight"]


@fault("file")
def tensor_too_many(content: Gguf) -> None:
    content.tensors["blk.0.attn_q.bias"] = (np.zeros(256, np.float32), gguf.GGMLQuantizationType.F32)


@fault("file")
def embedding_cut(content: Gguf) -> None:
    for name in ("token_embd.weight", "output.weight"):
        data, kind = content.tensors[name]
        content.tensors[name] = (data[:-8], kind)


@fault("file")
def not_a_number(content: Gguf) -> None:
    content.tensor("blk.0.ffn_down.weight")[7, 9] = np.nan


@fault("file")
def overflow_to_infinity(content: Gguf) -> None:
    content.tensor("token_embd.weight")[0, 0] = np.inf


@fault("file", kind="Q4_K_M")
def scale_of_a_block_is_infinite(content: Gguf) -> None:
    content.tensor("blk.0.ffn_gate.weight").view(np.uint8)[3, 0:2] = (0x00, 0x7C)


@fault("file", family="llama3")
def rope_factors_missing(content: Gguf) -> None:
    del content.tensors["rope_freqs.weight"]


# Metadata


@fault("metadata", family="llama3")
def rope_factors_all_one(content: Gguf) -> None:
    content.tensor("rope_freqs.weight")[:] = 1.0


@fault("metadata", family="llama3")
def rope_factors_inverted(content: Gguf) -> None:
    content.tensor("rope_freqs.weight")[:] = 1.0 / content.tensor("rope_freqs.weight")


@fault("metadata")
def rope_base_wrong(content: Gguf) -> None:
    content.set("llama.rope.freq_base", 1_000_000.0, gguf.GGUFValueType.FLOAT32)


@fault("metadata", family="llama3")
def rope_base_missing(content: Gguf) -> None:
    content.remove("llama.rope.freq_base")


@fault("metadata")
def rope_scaled_by_mistake(content: Gguf) -> None:
    content.set("llama.rope.scaling.type", "linear", gguf.GGUFValueType.STRING)
    content.set("llama.rope.scaling.factor", 8.0, gguf.GGUFValueType.FLOAT32)


@fault("metadata")
def epsilon_wrong(content: Gguf) -> None:
    content.set("llama.attention.layer_norm_rms_epsilon", 1e-6)


@fault("metadata")
def query_heads_wrong(content: Gguf) -> None:
    content.set("llama.attention.head_count", 8)


@fault("metadata")
def key_heads_wrong(content: Gguf) -> None:
    content.set("llama.attention.head_count_kv", 4)


@fault("metadata")
def context_length_wrong(content: Gguf) -> None:
    content.set("llama.context_length", 2048)


@fault("metadata")
def layer_count_wrong(content: Gguf) -> None:
    content.set("llama.block_count", 1)


@fault("metadata")
def head_dimension_wrong(content: Gguf) -> None:
    content.set("llama.rope.dimension_count", 32, gguf.GGUFValueType.UINT32)


@fault("metadata")
def beginning_token_wrong(content: Gguf) -> None:
    content.set(TOKENIZER + "bos_token_id", content.get(TOKENIZER + "eos_token_id"))


@fault("metadata")
def end_token_wrong(content: Gguf) -> None:
    content.set(TOKENIZER + "eos_token_id", content.get(TOKENIZER + "bos_token_id"))


@fault("metadata")
def end_of_turn_wrong(content: Gguf) -> None:
    content.set(TOKENIZER + "eot_token_id", 5, gguf.GGUFValueType.UINT32)


@fault("metadata")
def beginning_not_added(content: Gguf) -> None:
    content.set(TOKENIZER + "add_bos_token", False, gguf.GGUFValueType.BOOL)


@fault("metadata")
def end_added_to_every_prompt(content: Gguf) -> None:
    content.set(TOKENIZER + "add_eos_token", True, gguf.GGUFValueType.BOOL)


@fault("metadata")
def file_type_wrong(content: Gguf) -> None:
    content.set("general.file_type", 0)


@fault("metadata", kind="Q4_K_M")
def quantized_file_type_wrong(content: Gguf) -> None:
    content.set("general.file_type", 17)  # Q5_K_M


@fault("metadata")
def another_architecture(content: Gguf) -> None:
    content.set("general.architecture", "mistral3")


# The tokenizer


@fault("tokenizer", family="llama2")
def scores_flat(content: Gguf) -> None:
    content.set(TOKENIZER + "scores", [-1000.0] * len(content.get(TOKENIZER + "scores")))


@fault("tokenizer", family="llama2")
def scores_reversed(content: Gguf) -> None:
    content.set(TOKENIZER + "scores", [-score for score in content.get(TOKENIZER + "scores")])


@fault("tokenizer", family="llama2")
def two_scores_swapped(content: Gguf) -> None:
    scores = list(content.get(TOKENIZER + "scores"))
    scores[270], scores[300] = scores[300], scores[270]
    content.set(TOKENIZER + "scores", scores)


@fault("tokenizer", family="llama3")
def one_merge_missing(content: Gguf) -> None:
    merges = list(content.get(TOKENIZER + "merges"))
    del merges[40]
    content.set(TOKENIZER + "merges", merges)


@fault("tokenizer", family="llama3")
def two_merges_swapped(content: Gguf) -> None:
    merges = list(content.get(TOKENIZER + "merges"))
    merges[3], merges[30] = merges[30], merges[3]
    content.set(TOKENIZER + "merges", merges)


@fault("tokenizer", family="llama3")
def another_pre_tokenizer(content: Gguf) -> None:
    content.set(TOKENIZER + "pre", "gpt-2")


@fault("tokenizer", family="llama3")
def pre_tokenizer_missing(content: Gguf) -> None:
    content.remove(TOKENIZER + "pre")


@fault("tokenizer")
def every_token_is_normal(content: Gguf) -> None:
    content.set(TOKENIZER + "token_type", [1] * len(content.get(TOKENIZER + "token_type")))


@fault("tokenizer")
def a_control_token_is_user_defined(content: Gguf) -> None:
    content.change_item(TOKENIZER + "token_type", content.get(TOKENIZER + "bos_token_id"), 4)


@fault("tokenizer", family="llama2")
def byte_tokens_are_normal(content: Gguf) -> None:
    kinds = [1 if kind == 6 else kind for kind in content.get(TOKENIZER + "token_type")]
    content.set(TOKENIZER + "token_type", kinds)


@fault("tokenizer")
def two_tokens_swapped(content: Gguf) -> None:
    tokens = list(content.get(TOKENIZER + "tokens"))
    tokens[300], tokens[301] = tokens[301], tokens[300]
    content.set(TOKENIZER + "tokens", tokens)


@fault("tokenizer", family="llama2")
def no_space_before_the_text(content: Gguf) -> None:
    content.set(TOKENIZER + "add_space_prefix", False, gguf.GGUFValueType.BOOL)


# The prompt

TEMPLATE = "tokenizer.chat_template"


@fault("prompts")
def template_missing(content: Gguf) -> None:
    content.remove(TEMPLATE)


@fault("prompts")
def template_with_a_second_beginning(content: Gguf) -> None:
    content.set(TEMPLATE, "{{- bos_token -}}" + content.get(TEMPLATE))


@fault("prompts", family="llama2")
def template_lost_a_newline_after_the_system_message(content: Gguf) -> None:
    content.set(TEMPLATE, content.get(TEMPLATE).replace("<</SYS>>\\n\\n", "<</SYS>>\\n"))


@fault("prompts", family="llama3")
def template_lost_a_newline_after_the_header(content: Gguf) -> None:
    content.set(TEMPLATE, content.get(TEMPLATE).replace("\\n\\n", "\\n"))


@fault("prompts")
def template_trims_what_people_type(content: Gguf) -> None:
    content.set(TEMPLATE, content.get(TEMPLATE).replace("message['content']", "message['content'] | trim"))


@fault("prompts", family="llama2")
def template_without_the_space_before_the_answer(content: Gguf) -> None:
    content.set(TEMPLATE, content.get(TEMPLATE).replace("' ' + message", "message"))


@fault("prompts")
def template_of_another_model(content: Gguf) -> None:
    content.set(
        TEMPLATE, "{% for message in messages %}{{ '<|im_start|>' + message['content'] + '<|im_end|>' }}{% endfor %}"
    )
