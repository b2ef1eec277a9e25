"""The honest rounding of a file type, imitated in the Hugging Face model: see `logits.py` for when it is asked for.

The weights are the file's own (the tensors check has just found them right). Before every product the activations are rounded as
llama.cpp rounds them: to F16 or BF16 beside weights of that type, and beside quantized weights to 8 bits a block of 32 or 256
values (`vec_dot_type` in ggml/src/ggml-cpu/ggml-cpu.c). For F32 the imitation computes in float64: what that changes is the
rounding of float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from convert.checks.gguf_file import Header, to_float32
from convert.checks.reference import Weights, checkpoint_rows

BLOCKS_OF_32 = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4")


def imitate(header: Header, weights: Weights) -> Callable[[Any], Any]:
    """A function that turns a loaded Hugging Face model into the imitation of this file."""

    def prepare(model: Any) -> Any:
        import torch

        modules = {plain_name(name): module for name, module in model.named_modules()}
        types = set()
        for name, expected in weights.expected.items():
            source = name if name in header.tensors else "token_embd.weight"
            module_name, _, attribute = expected.parameter.rpartition(".")
            values = torch.from_numpy(_stored(header, source, expected.head_dim).reshape(expected.shape))
            module = modules[module_name]
            setattr(module, attribute, torch.nn.Parameter(values, requires_grad=False))
            kind = header.tensors[source].type
            types.add(kind)
            if isinstance(module, torch.nn.Linear) and attribute == "weight" and kind != "F32":
                module.register_forward_pre_hook(_rounding(kind))
        return model.double() if types == {"F32"} else model

    return prepare


def plain_name(name: str) -> str:
    """A module's name without what PEFT wraps around it."""
    return name.removeprefix("base_model.model.").removesuffix(".base_layer")


def _stored(header: Header, name: str, head_dim: int | None) -> np.ndarray:
    """A tensor of the file in Transformers' row order, float32."""
    tensor = header.tensors[name]
    values = to_float32(header.read_rows(tensor), tensor.type)
    if head_dim is None:
        return np.array(values)
    rows = values.reshape(tensor.shape[0], -1)
    restored = np.empty_like(rows)
    restored[checkpoint_rows(np.arange(len(rows)), head_dim)] = rows
    return restored


def _rounding(kind: str) -> Callable[[Any, tuple[Any, ...]], tuple[Any, ...]]:
    import torch

    def to_half(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        half = torch.float16 if kind == "F16" else torch.bfloat16
        return (inputs[0].to(half).float(), *inputs[1:])

    def to_eight_bits(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        values = inputs[0]
        block = 32 if kind in BLOCKS_OF_32 or values.shape[-1] % 256 else 256
        blocks = values.reshape(*values.shape[:-1], -1, block)
        scale = (blocks.abs().amax(-1, keepdim=True) / 127).clamp_min(1e-30)
        return ((torch.round(blocks / scale) * scale).reshape(values.shape), *inputs[1:])

    return to_half if kind in ("F16", "BF16") else to_eight_bits
