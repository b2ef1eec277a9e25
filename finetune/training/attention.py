"""Attention inside each document of a packed row: what packing needs so that records do not see each other.

A packed batch is one row of tokens, (1, T), with the boundaries of its documents, `cu_seq_lens_q` (documents + 1,) int32. On a
CUDA GPU of compute capability 8.0 and up, torch's variable-length flash kernel works on that row at once, in bfloat16 or float16.
Elsewhere each document is a causal attention of its own. Either way nothing of size T x T exists, as the block-diagonal mask
that Transformers makes for `sdpa` and `eager` would be.

    register()                                              # once; then attn_implementation="documents"
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "documents"


def register() -> None:
    """Make the implementation known to Transformers. Without a mask function of the same name it is given no mask."""
    AttentionInterface.register(NAME, document_attention)


def document_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **given: Any
) -> tuple[Tensor, None]:
    """`query` (1, heads, T, width), `key` and `value` (1, key heads, T, width) -> (1, T, heads, width). A batch without
    boundaries is an ordinary one: each of its rows is a document, padded at the right."""
    if given.get("cu_seq_lens_q") is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **given)
    boundaries, scale = given["cu_seq_lens_q"], given["scaling"]
    if _has_kernel(query):
        return _with_kernel(query, key, value, boundaries, given["max_length_q"], scale), None
    return _one_by_one(query, key, value, boundaries, scale), None


def _has_kernel(query: Tensor) -> bool:
    return (
        query.is_cuda
        and query.dtype in (torch.bfloat16, torch.float16)
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )


def _with_kernel(query: Tensor, key: Tensor, value: Tensor, boundaries: Tensor, longest: int, scale: float) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]  # (T, heads, width)
    causal = (-1, 0)  # window: all before, none after
    # torch 2.11's kernel takes no such word.
    shared_keys = {"enable_gqa": True} if query.shape[1] != key.shape[1] else {}
    attended = varlen_attn(
        *rows, boundaries, boundaries, longest, longest, scale=scale, window_size=causal, **shared_keys
    )
    return attended[None]


@torch.compiler.disable  # compiled, each batch's own lengths would be compiled anew
def _one_by_one(query: Tensor, key: Tensor, value: Tensor, boundaries: Tensor, scale: float) -> Tensor:
    lengths = boundaries.diff().tolist()
    documents = zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True)
    attended = [
        scaled_dot_product_attention(its_query, its_key, its_value, is_causal=True, scale=scale, enable_gqa=True)
        for its_query, its_key, its_value in documents
    ]
    return torch.cat(attended, dim=2).transpose(1, 2)
