"""What each matrix of a model is multiplied with: the sums from which an importance matrix is made.

    with Model(path) as model:
        found = collect_activations(model, prompts)
    found["blk.0.attn_q.weight"].mean_squares()          # (columns,) float32

llama.cpp calls back before and after each operation of its graph, and the operands lie in the processor's memory. What is
summed is what llama.cpp's own llama-imatrix sums: the squares of the activations, column by column, over all tokens.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy
import numpy.typing

from medllama.llamacpp import BatchToken, Context, LlamaCppError, Model
from medllama.llamacpp.quantizer import ggml_base

F32 = 0  # GGML_TYPE_F32
BATCH_TOKENS = 512
SEQUENCES = 64


class GgmlTensor(ctypes.Structure):
    """The beginning of `struct ggml_tensor` (ggml/include/ggml.h)."""


GgmlTensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(GgmlTensor) * 10),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
]


@dataclass
class Activations:
    """The sum of squares of each column, (columns,) float64, over `count` tokens."""

    sums: numpy.typing.NDArray[numpy.float64]
    count: int = 0

    def mean_squares(self) -> numpy.typing.NDArray[numpy.float32]:
        return (self.sums / max(1, self.count)).astype(numpy.float32)


class _Collector:
    """What llama.cpp calls; an error in it is kept and raised when llama.cpp has returned."""

    def __init__(self) -> None:
        self.found: dict[str, Activations] = {}
        self.error: BaseException | None = None

    def __call__(self, address: int, is_question: bool, user_data: Any) -> bool:
        if self.error is not None:  # let the next operation be the last
            return is_question
        try:
            return self._see(GgmlTensor.from_address(address), address, is_question=is_question)
        except Exception as error:  # it must not pass through C
            self.error = error
            return False

    def _see(self, tensor: GgmlTensor, address: int, *, is_question: bool) -> bool:
        if ggml_base().ggml_get_name(address) != tensor.name:
            raise LlamaCppError("ggml's tensors are laid out otherwise than medllama knows", hint="see constraints.txt")
        if ggml_base().ggml_op_name(tensor.op) != b"MUL_MAT":
            return False
        weights, values = tensor.src[0].contents, tensor.src[1].contents
        name = weights.name.decode()
        if not (name.startswith("blk.") and name.endswith(".weight")) or values.type != F32:
            return False
        if is_question:
            return True
        assert values.nb[1] == 4 * values.ne[0], "rows of activations lie one after the other"
        columns, rows = values.ne[0], values.ne[1] * values.ne[2] * values.ne[3]
        pointer = ctypes.cast(values.data, ctypes.POINTER(ctypes.c_float))
        seen = numpy.ctypeslib.as_array(pointer, shape=(rows, columns))
        sums = self.found.setdefault(name, Activations(numpy.zeros(columns)))
        sums.sums += numpy.einsum("ij,ij->j", seen, seen, dtype=numpy.float64)
        sums.count += rows
        return True


def collect_activations(model: Model, prompts: Iterable[Sequence[int]]) -> dict[str, Activations]:
    """The sums over all tokens of `prompts` (token ids, each at most BATCH_TOKENS), by tensor name. An output matrix has none: it
    is never quantized by importance."""
    collector = _Collector()
    with Context(
        model, context_tokens=BATCH_TOKENS, batch_tokens=BATCH_TOKENS, sequences=SEQUENCES, on_operation=collector
    ) as context, ThreadPoolExecutor(1) as pool:  # fmt: skip
        try:
            # Ctrl-C is raised in the main thread: inside of a callback from C it would be lost, and the sums go on.
            pool.submit(_read, context, prompts, collector).result()
        except BaseException as error:
            collector.error = collector.error or error
            raise
    return collector.found


def _read(context: Context, prompts: Iterable[Sequence[int]], collector: _Collector) -> None:
    for batch in _batches(prompts):
        context.clear()
        # Of a token whose logits nobody wants, llama.cpp does not compute the last layer.
        tokens = [
            BatchToken(token, position, (sequence,), True)
            for sequence, prompt in enumerate(batch)
            for position, token in enumerate(prompt)
        ]
        for _ in context.decode_batch(tokens):
            pass
        if collector.error is not None:
            raise collector.error


def _batches(prompts: Iterable[Sequence[int]]) -> Iterable[list[Sequence[int]]]:
    """Whole prompts, as many as one batch holds."""
    batch: list[Sequence[int]] = []
    for prompt in prompts:
        assert 0 < len(prompt) <= BATCH_TOKENS
        if len(batch) == SEQUENCES or sum(map(len, batch)) + len(prompt) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(prompt)
    if batch:
        yield batch
