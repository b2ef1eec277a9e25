"""The honest rounding of a file type, imitated in the Hugging Face model: see `logits.py` for when it is asked for.

The weights are the file's own (the tensors check has just found them right). Before every product the activations are rounded as
llama.cpp rounds them: to F16 or BF16 beside weights of that type, and beside quantized weights to 8 bits a block of 32 or 256
values (`vec_dot_type` in ggml/src/ggml-cpu/ggml-cpu.c). For F32 the imitation computes in float64: what that changes is the
rounding of float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from convert.checks import hugging_face
from convert.checks.gguf_file import Header, to_float32
from convert.checks.reference import Weights, checkpoint_rows

if TYPE_CHECKING:
    import torch

BLOCKS_OF_32 = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4", "Q1_0", "Q2_0")


class FileWeights(hugging_face.Weights):
    """A file's weights in Transformers' row order, and its rounding of activations."""

    def __init__(self, header: Header, weights: Weights) -> None:
        super().__init__(weights.reference)
        self.header = header
        self.sources = {
            expected.parameter: (name if name in header.tensors else "token_embd.weight", expected)
            for name, expected in weights.expected.items()
        }
        self.kinds = {parameter: header.tensors[source].type for parameter, (source, _) in self.sources.items()}

    def parameter(self, name: str) -> torch.Tensor:
        import torch

        source, expected = self.sources[name]
        tensor = self.header.tensors[source]
        values = to_float32(self.header.read_rows(tensor), tensor.type)
        if expected.head_dim is None:
            return torch.from_numpy(np.array(values).reshape(expected.shape))
        rows = values.reshape(tensor.shape[0], -1)
        restored = np.empty_like(rows)
        restored[checkpoint_rows(np.arange(len(rows)), expected.head_dim)] = rows
        return torch.from_numpy(restored.reshape(expected.shape))

    @property
    def dtype(self) -> torch.dtype:
        import torch

        return torch.float64 if set(self.kinds.values()) == {"F32"} else torch.float32

    def prepare(self, model: Any) -> None:
        import torch

        for name, module in model.named_modules():
            kind = self.kinds.get(f"{hugging_face.plain_name(name)}.weight", "F32")
            if isinstance(module, torch.nn.Linear) and kind != "F32":
                module.register_forward_pre_hook(_rounding(kind))


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
