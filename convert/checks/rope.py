"""What a model's rotary embedding really does: angles and magnitude, on the Hugging Face side and as llama.cpp reads a GGUF.

RoPE scaling is written in different words on the two sides ("llama3" is a tensor in GGUF, "linear" a factor, "yarn" a few
numbers), so the words are not compared. Compared is what they amount to: for every pair of dimensions the angle by which one
position turns it, and the factor on cosine and sine.

Sources followed: `LlamaRotaryEmbedding` of Transformers; `llama_context` (src/llama-context.cpp), `rope_yarn` and
`ggml_rope_yarn_corr_dims` (ggml/src/ggml-cpu/ops.cpp, ggml/src/ggml.c) of llama.cpp, build 0c1e570.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# For the architecture "llama" llama.cpp does not read YaRN's other numbers: these are compiled in (src/llama-hparams.h).
YARN_BETA_FAST, YARN_BETA_SLOW = 32.0, 1.0


@dataclass(frozen=True)
class Rope:
    """`angles` (head_dim / 2,) radians per position; `magnitude` is the factor on cosine and sine."""

    angles: np.ndarray
    magnitude: float


def of_hugging_face(config: Any) -> Rope:
    """The rotary embedding that Transformers computes for a `LlamaConfig`."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    embedding = LlamaRotaryEmbedding(config)
    return Rope(embedding.inv_freq.double().numpy(), float(embedding.attention_scaling))


def of_gguf(metadata: Mapping[str, Any], head_dim: int, factors: np.ndarray | None) -> Rope:
    """The rotary embedding that llama.cpp computes from a file; `factors` is the tensor rope_freqs.weight."""

    def number(key: str, default: float) -> float:
        value = metadata.get(f"llama.rope.{key}", default)
        return float(value) if isinstance(value, int | float) else math.nan

    base = number("freq_base", 10000.0)
    kind = metadata.get("llama.rope.scaling.type", "linear")
    factor = number("scaling.factor", 0.0) or number("scale_linear", 0.0) or 1.0
    if kind == "none":
        factor = 1.0
    pairs = np.arange(head_dim // 2)
    with np.errstate(all="ignore"):  # a base that is none gives NaN, which equals nothing
        extrapolated = base ** (-2.0 * pairs / head_dim)
    if factors is not None and factors.size == pairs.size:
        extrapolated = extrapolated / factors
    interpolated = extrapolated / factor
    magnitude = number("scaling.attn_factor", 1.0)
    if kind != "yarn":
        return Rope(interpolated, magnitude)
    context = number("scaling.original_context_length", float(metadata.get("llama.context_length", 0) or 0))
    low = _correction(head_dim, context, YARN_BETA_FAST, base)
    high = _correction(head_dim, context, YARN_BETA_SLOW, base)
    low, high = max(0.0, math.floor(low)), min(head_dim - 1.0, math.ceil(high))
    # 1 where the dimension turns fast enough to be left alone, 0 where it is interpolated.
    kept = 1.0 - np.clip((pairs - low) / max(0.001, high - low), 0.0, 1.0)
    # The context multiplies by this magnitude over 1 + 0.1 ln(factor), and the kernel by 1 + 0.1 ln(factor).
    magnitude *= 0.1 * math.log(factor) + 1.0 if factor > 1.0 else 1.0
    return Rope(interpolated * (1.0 - kept) + extrapolated * kept, magnitude)


def _correction(head_dim: int, context: float, rotations: float, base: float) -> float:
    """The dimension at which `rotations` full turns fit the original context; NaN where the numbers make none."""
    if context <= 0 or rotations <= 0 or base <= 1:
        return 0.0
    return head_dim * math.log(context / (rotations * 2.0 * math.pi)) / (2.0 * math.log(base))


def largest_difference(truth: Rope, found: Rope) -> tuple[float, int]:
    """The largest relative difference of an angle, with the number of its pair of dimensions."""
    if truth.angles.shape != found.angles.shape:
        return math.inf, 0
    difference = np.abs(found.angles / truth.angles - 1.0)
    worst = int(np.argmax(np.nan_to_num(difference, nan=np.inf)))
    return float(np.nan_to_num(difference[worst], nan=math.inf)), worst
