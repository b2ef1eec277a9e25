"""Some rows of one tensor while they are at hand: read and merged once, and made into every form that a file wants.

slab = Slab(source, target, slice(0, 256), "F16")
slab.values("BF16")                       # as in Transformers
slab.in_gguf("Q4_K", weights)             # as they stand in a GGUF
"""

from __future__ import annotations

from typing import Any

import numpy.typing

from convert.config import UNQUANTIZED
from convert.importance import Weights
from convert.source import Source
from convert.tensors import Target, to_llama_cpp_layout
from convert.weights import round_to, to_float32
from medllama.llamacpp.vectorized import quantize_rows

Array = numpy.typing.NDArray[Any]


class Slab:
    """Rows of a tensor, those of query and key in whole heads. `intermediate` is the 16-bit type whose values are quantized."""

    def __init__(self, source: Source, target: Target, rows: slice, intermediate: str) -> None:
        self.source, self.target, self.rows, self.intermediate = source, target, rows, intermediate
        self._values: dict[str, Array] = {}
        self._in_gguf: dict[tuple[str, bool], Array] = {}

    def values(self, type_name: str) -> Array:
        """(rows, columns) float32, float16, or the bits of bfloat16, in Transformers' layout."""
        if type_name not in self._values:
            self._values[type_name] = self._made(type_name)
        return self._values[type_name]

    def in_gguf(self, type_name: str, weights: Weights | None) -> Array:
        """The same in llama.cpp's layout, or (rows, bytes) of a quantized type, whose columns `weights` may weigh."""
        key = (type_name, weights is not None)  # the files of one pass share one importance matrix
        if key not in self._in_gguf:
            is_quantized = type_name not in UNQUANTIZED
            values = self.values(self.intermediate if is_quantized else type_name)
            values = to_llama_cpp_layout(values, self.target.source, self.source.shape)
            if is_quantized:
                values = quantize_rows(to_float32(values, self.intermediate), type_name, weights)
            self._in_gguf[key] = values
        return self._in_gguf[key]

    def _made(self, type_name: str) -> Array:
        stored = self.source.stored.get(self.target.stored)
        if not self.source.is_merged(self.target) and stored is not None and stored.dtype == type_name:
            return stored.raw(self.rows)
        if type_name == "F32":
            return self.source.merged(self.target, self.rows)
        return round_to(self.values("F32"), type_name, self.target.source)
