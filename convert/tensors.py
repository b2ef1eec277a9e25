"""Names and layouts: Hugging Face's Llama tensors and llama.cpp's.

llama.cpp rotates neighboring pairs of rows (0, 1), (2, 3), ...; Transformers rotates row i with row i + head_dim / 2. The rows
of the query and key projections are therefore interleaved per head on the way to GGUF. It is a matter of rows only: for a
LoRA on them it is B that is permuted, not A.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy
import numpy.typing

from convert.architecture import Shape
from convert.weights import StoredTensor
from medllama.errors import InputError, UnsupportedError

Array = numpy.typing.NDArray[Any]

EMBEDDING, HEAD, FINAL_NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
LAYER_MODULES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
# Recomputed from the configuration by everybody; old checkpoints still carry it.
IGNORED_SUFFIX = "rotary_emb.inv_freq"


@dataclass(frozen=True)
class Target:
    """One tensor of the GGUF: its name there, the Hugging Face name it comes from, and its shape (rows first).

    `stored` is the name under which the base holds it: a tied checkpoint may store its embedding as `lm_head.weight`.
    `is_untouched` keeps the base's tensor although an adapter brings another of that name (the head of a tied model
    whose embedding was trained).
    """

    name: str
    source: str
    stored: str
    shape: tuple[int, ...]
    is_untouched: bool = False


def expected_tensors(shape: Shape) -> dict[str, tuple[str, tuple[int, ...] | None]]:
    """Hugging Face name -> (GGUF name, shape), of everything but the head; the embedding's rows are the file's to say."""
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    sizes: dict[str, tuple[int, ...]] = {
        "attn_q": (query, shape.hidden),
        "attn_k": (key, shape.hidden),
        "attn_v": (key, shape.hidden),
        "attn_output": (shape.hidden, query),
        "ffn_gate": (shape.feed_forward, shape.hidden),
        "ffn_up": (shape.feed_forward, shape.hidden),
        "ffn_down": (shape.hidden, shape.feed_forward),
        "attn_norm": (shape.hidden,),
        "ffn_norm": (shape.hidden,),
    }
    found: dict[str, tuple[str, tuple[int, ...] | None]] = {EMBEDDING: ("token_embd.weight", None)}
    for layer in range(shape.layers):
        for module, short in LAYER_MODULES.items():
            prefix = f"model.layers.{layer}.{module}"
            found[f"{prefix}.weight"] = (f"blk.{layer}.{short}.weight", sizes[short])
            has_bias = shape.has_attention_bias if module.startswith("self_attn") else shape.has_mlp_bias
            if has_bias and len(sizes[short]) == 2:
                found[f"{prefix}.bias"] = (f"blk.{layer}.{short}.bias", sizes[short][:1])
    found[FINAL_NORM] = ("output_norm.weight", (shape.hidden,))
    return found


def plan_tensors(
    stored: dict[str, StoredTensor],
    shape: Shape,
    replaced: dict[str, tuple[int, ...]],
    origin: object,
    *,
    keeps_tie: bool,
) -> list[Target]:
    """What the GGUF holds, in its order.

    `replaced` gives the shapes of tensors that an adapter brings whole; `keeps_tie` says that a tied model stays tied when
    one of its two names is among them. Raises InputError where tensors are missing or have the wrong shape,
    UnsupportedError where some are left over.
    """
    if shape.layers > len(stored):
        raise InputError(
            f"{origin}: config.json means {shape.layers} layers, and there are {len(stored)} tensors",
            hint="the weights and config.json are not of one model, or a shard is missing",
        )
    shapes = {name: tensor.shape for name, tensor in stored.items()} | replaced
    embedding = HEAD if EMBEDDING not in stored and shape.is_tied else EMBEDDING
    targets, problems = [], []
    for source, (name, size) in expected_tensors(shape).items():
        actual = embedding if source == EMBEDDING else source
        found = shapes.get(source) or shapes.get(actual)
        if found is None:
            problems.append(f"{source} is missing")
        elif size is not None and found != size:
            problems.append(f"{source} is {found} where config.json means {size}")
        else:
            targets.append(Target(name, source, actual, found))
    head = _plan_head(stored, shape, replaced, keeps_tie=keeps_tie)
    if head is not None and targets and head.shape != targets[0].shape:
        problems.append(f"{head.source} is {head.shape or 'missing'} where the embedding is {targets[0].shape}")
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise InputError(
            f"{origin}: {shown}", hint="the weights and config.json are not of one model, or a shard is missing"
        )
    known = {*expected_tensors(shape), HEAD}
    if extra := [name for name in stored if name not in known and not name.endswith(IGNORED_SUFFIX)]:
        raise UnsupportedError(
            f"{origin}: {len(extra)} tensors are not a Llama's, such as {', '.join(extra[:3])}",
            hint="the checkpoint holds more than LlamaForCausalLM; export the language model alone",
        )
    return targets + ([head] if head else [])


def _plan_head(
    stored: dict[str, StoredTensor], shape: Shape, replaced: dict[str, tuple[int, ...]], *, keeps_tie: bool
) -> Target | None:
    """The output matrix, or None where it is the embedding, as Transformers decides it.

    Where a tied checkpoint stores both names with different values, Transformers does not tie them, and neither do we.
    Where an adapter trained a copy of one of a tied pair, the other stays the base's, as in PEFT's merge.
    """
    name = "output.weight"
    if not shape.is_tied:
        found = replaced.get(HEAD) or (stored[HEAD].shape if HEAD in stored else ())
        return Target(name, HEAD, HEAD, found)
    if HEAD in replaced and not keeps_tie:
        return Target(name, HEAD, HEAD, replaced[HEAD])
    both = EMBEDDING in stored and HEAD in stored
    if both and not _are_equal(stored[EMBEDDING], stored[HEAD]):
        return Target(name, HEAD, HEAD, stored[HEAD].shape)
    if EMBEDDING in replaced and not keeps_tie:
        base = stored[HEAD] if HEAD in stored else stored[EMBEDDING]
        # A grown vocabulary: Transformers ties the pair again when it resizes it.
        is_grown = base.shape != replaced[EMBEDDING]
        return None if is_grown else Target(name, HEAD, base.name, base.shape, is_untouched=True)
    return None


def _are_equal(first: StoredTensor, second: StoredTensor) -> bool:
    return first.shape == second.shape and first.dtype == second.dtype and numpy.array_equal(first.raw(), second.raw())


def permute_rows(values: Array, head_dim: int) -> Array:
    """Interleave the two halves of each head's rows: row order i, i + half -> 2i, 2i + 1. (rows, ...) -> (rows, ...)"""
    halves = values.reshape(-1, 2, head_dim // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def is_rotated(source: str) -> bool:
    """Whether a Hugging Face tensor belongs to the query or key projection, whose rows llama.cpp orders otherwise."""
    return ".self_attn.q_proj." in source or ".self_attn.k_proj." in source


def to_llama_cpp_layout(values: Array, source: str, shape: Shape) -> Array:
    """A Hugging Face tensor, or the rows of whole heads of one, in llama.cpp's layout: query and key rows interleaved,
    everything else as it is."""
    return permute_rows(values, shape.head_dim) if is_rotated(source) else values
