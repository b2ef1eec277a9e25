"""One pass over base and adapter: every file gets its rows while they are at hand.

A slab of rows is read, merged in float32, rounded once to 16 bits, quantized to each type that a file wants it in, and written
where it belongs. Slabs are independent, so that every core works on one of its own while others read and write. Nothing
is in memory but the slabs at work, and nothing is written but the files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import numpy
import numpy.typing
from threadpoolctl import threadpool_limits

from convert.config import UNQUANTIZED
from convert.output import Output, Plan
from convert.source import Source
from convert.tensors import Target, is_rotated, to_llama_cpp_layout
from convert.weights import round_to, to_float32
from medllama import progress
from medllama.llamacpp.quantizer import quantize_rows

Array = numpy.typing.NDArray[Any]
# 2 MB in float32: small enough for a core's cache, large enough that Python's own work on it does not show.
SLAB_VALUES = 1 << 19
LARGEST_KEPT_BYTES = 31 << 20


class Slab:
    """Some rows of one tensor in llama.cpp's layout, as each file wants them; every type is made once."""

    def __init__(self, source: Source, target: Target, rows: slice, intermediate: str) -> None:
        self.source, self.target, self.rows, self.intermediate = source, target, rows, intermediate
        self.known: dict[str, Array] = {}
        self.blocks: dict[tuple[str, bool], Array] = {}

    def of(self, plan: Plan) -> Array:
        """The rows as they stand in a file: (rows, columns), or (rows, bytes) of a quantized type."""
        type_name, weights = plan.types[self.target.name], plan.weights(self.target.name)
        if type_name in UNQUANTIZED:
            return self.values(type_name)
        key = (type_name, weights is not None)  # the files of one pass share one importance matrix
        if key not in self.blocks:
            values = to_float32(self.values(self.intermediate), self.intermediate)
            self.blocks[key] = quantize_rows(values, type_name, weights)
        return self.blocks[key]

    def values(self, type_name: str) -> Array:
        """(rows, columns) float32, float16, or the bits of bfloat16."""
        if type_name not in self.known:
            self.known[type_name] = self._values(type_name)
        return self.known[type_name]

    def _values(self, type_name: str) -> Array:
        stored = self.source.stored.get(self.target.stored)
        if not self.source.is_merged(self.target) and stored is not None and stored.dtype == type_name:
            return self._laid_out(stored.raw(self.rows))
        if type_name == "F32":
            return self._laid_out(self.source.merged(self.target, self.rows))
        return round_to(self.values("F32"), type_name, self.target.source)

    def _laid_out(self, values: Array) -> Array:
        return to_llama_cpp_layout(values, self.target.source, self.source.shape)


def write_tensors(source: Source, outputs: Sequence[Output], intermediate: str) -> None:
    """Write every tensor into every output. `intermediate` is the 16-bit type whose values are quantized.

    The bytes do not depend on the number of cores. Raises what the first slab that failed raised.
    """
    # glibc gives freed blocks back to the system, which faults them in again page by page, unless a larger one was freed before.
    numpy.empty(LARGEST_KEPT_BYTES, numpy.uint8)
    wanted = list(_slabs(source))
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shown = ", ".join(output.plan.file_type for output in outputs)

    def write(target: Target, rows: slice) -> None:
        slab = Slab(source, target, rows, intermediate)
        for output in outputs:
            output.write(target.name, rows.start, slab.of(output.plan))

    # Each thread multiplies its own slab: a multiplication over all cores would wait for the other threads.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        at_work = {pool.submit(write, target, rows): target for target, rows in wanted}
        try:
            for done, future in enumerate(as_completed(at_work), start=1):
                future.result()
                progress.update(f"{shown}  {at_work[future].name}", done, len(wanted))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _slabs(source: Source) -> Iterator[tuple[Target, slice]]:
    """Every tensor in slabs of whole rows, those of query and key in whole heads."""
    for target in source.targets:
        rows, *columns = target.shape
        height = max(1, SLAB_VALUES // columns[0]) if columns else rows
        if is_rotated(target.source):
            height = max(1, height // source.shape.head_dim) * source.shape.head_dim
        for first in range(0, rows, height):
            yield target, slice(first, min(first + height, rows))
