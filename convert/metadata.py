"""The metadata of a GGUF: architecture, tokenizer, chat template, and where the model comes from.

Keys are gguf-py's. No name is written that the run does not give.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import gguf

from convert.architecture import Shape
from medllama.errors import UnsupportedError
from medllama.vocabulary import FORCED_CONTROL, Vocabulary


@dataclass(frozen=True)
class Provenance:
    """What the file says about its origin: `name` of the model, its base, the data sets and the licence, where known;
    `base_values` where they are not the stored ones."""

    name: str
    base_name: str
    base_url: str = ""
    licence: str = ""
    datasets: tuple[str, ...] = ()
    is_tuned: bool = False
    base_values: str = ""


def write_architecture(writer: gguf.GGUFWriter, shape: Shape, rows: int) -> None:
    """The model's dimensions. Every value that llama.cpp reads is written, none is left to its defaults."""
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)
    writer.add_vocab_size(rows)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope.theta)
    rope = shape.rope
    if rope.kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope.parameters["factor"])
    elif rope.is_llama_cpp_yarn:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope.parameters["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope.original_context)
        if (correction := rope.magnitude / rope.llama_cpp_magnitude) != 1.0:
            writer.add_rope_scaling_attn_factors(correction)
    elif rope.magnitude != 1.0:
        writer.add_rope_scaling_attn_factors(rope.magnitude)  # beside the frequencies in rope_freqs.weight


def write_provenance(writer: gguf.GGUFWriter, provenance: Provenance, parameters: int) -> None:
    """Name, base, data sets and licence, and the size for people."""
    writer.add_type("model")
    writer.add_size_label(gguf.size_label(parameters, parameters, 0, 0))
    write_origin(writer, provenance)


def write_origin(writer: gguf.GGUFWriter, provenance: Provenance) -> None:
    """Name, base, data sets and licence: what a model and an adapter have in common."""
    writer.add_name(provenance.name)
    if provenance.is_tuned:
        writer.add_finetune(provenance.name)
    if provenance.licence:
        writer.add_license(provenance.licence)
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, provenance.base_name)
    if provenance.base_url:
        writer.add_base_model_repo_url(0, provenance.base_url)
    if provenance.base_values:
        writer.add_base_model_description(0, provenance.base_values)
    if provenance.datasets:
        writer.add_dataset_count(len(provenance.datasets))
        for index, name in enumerate(provenance.datasets):
            writer.add_dataset_name(index, name)


def write_tokenizer(writer: gguf.GGUFWriter, vocabulary: Vocabulary, template: str | None, ends: Iterable[int]) -> None:
    """The tokenizer; `ends` are the ids that must end generation. Raises UnsupportedError where llama.cpp cannot stop there."""
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types([int(kind) for kind in vocabulary.types])
    if vocabulary.model == "llama":
        writer.add_token_scores(list(vocabulary.scores))
        writer.add_add_space_prefix(vocabulary.add_space_prefix)
    else:
        writer.add_token_merges([" ".join(pair) for pair in vocabulary.merges])
    if vocabulary.bos_id is not None:
        writer.add_bos_token_id(vocabulary.bos_id)
    if vocabulary.unk_id is not None:
        writer.add_unk_token_id(vocabulary.unk_id)
    if vocabulary.pad_id is not None:
        writer.add_pad_token_id(vocabulary.pad_id)
    for slot, index in end_slots(vocabulary, ends).items():
        {"eos": writer.add_eos_token_id, "eot": writer.add_eot_token_id, "eom": writer.add_eom_token_id}[slot](index)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    if template is not None:
        writer.add_chat_template(template)


def end_slots(vocabulary: Vocabulary, ends: Iterable[int]) -> dict[str, int]:
    """Which id goes into which of GGUF's three end slots, so that every one of `ends` ends generation.

    llama.cpp also stops at tokens that it knows by name (`<|eot_id|>`), which need no slot.
    """
    wanted = list(dict.fromkeys(ends))
    slots: dict[str, int] = {}
    eos = vocabulary.eos_id if vocabulary.eos_id is not None else next(iter(wanted), None)
    if eos is not None:
        slots["eos"] = eos
    named = {index for index, token in enumerate(vocabulary.tokens) if token in FORCED_CONTROL}
    if "<|eot_id|>" in vocabulary.tokens:
        slots["eot"] = vocabulary.tokens.index("<|eot_id|>")
    for index in wanted:
        if index in named or index in slots.values():
            continue
        free = next((slot for slot in ("eot", "eom") if slot not in slots), None)
        if free is None:
            raise UnsupportedError(
                f"generation ends at {len(wanted)} tokens, and llama.cpp cannot stop at {vocabulary.tokens[index]!r}",
                hint="leave it out of eos_token_id in generation_config.json, or end turns with <|eot_id|>",
            )
        slots[free] = index
    return slots
