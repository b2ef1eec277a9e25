"""One pass over base and adapter: every file gets its rows while they are at hand.

A slab of rows is read, merged in float32, rounded once to 16 bits, quantized to each type that a file wants it in, and written
where it belongs. Slabs are independent, so that every core works on one of its own while others read and write, and the system is
asked for what comes next. Nothing is in memory but the slabs at work, and nothing is written but the files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import zip_longest
from typing import Protocol

import numpy
from threadpoolctl import threadpool_limits

from convert.slab import Slab
from convert.source import Source
from convert.tensors import Target, is_rotated
from medllama import progress
from medllama.cores import usable_cores

# 4 MB in float32: with half of that, opening files and reading the adapter anew for each slab costs 1% of a quantized file.
SLAB_VALUES = 1 << 20
# What the disk reads while slabs before it are at work: a base that is in no cache takes a quarter less time so.
SLABS_AHEAD = 8
LARGEST_KEPT_BYTES = 31 << 20


class Output(Protocol):
    """What rows are written into: a GGUF (output.py) or a checkpoint (checkpoint.py)."""

    @property
    def file_type(self) -> str:
        """How people call it."""

    def write(self, slab: Slab) -> None:
        """Write the rows where they belong. Safe from several threads."""


def write_tensors(source: Source, outputs: Sequence[Output], intermediate: str) -> None:
    """Write every tensor into every output, while the base is compared with what the adapter was trained on. `intermediate` is the
    16-bit type whose values are quantized.

    The bytes do not depend on the number of cores. Raises what the first slab that failed raised.
    """
    # glibc gives freed blocks back to the system, which faults them in again page by page, unless a larger one was freed before.
    numpy.empty(LARGEST_KEPT_BYTES, numpy.uint8)
    shown = ", ".join(output.file_type for output in outputs)
    slabs = list(_slabs(source))

    def write(target: Target, rows: slice, coming: tuple[Target, slice] | None) -> None:
        if coming is not None:
            source.expect(*coming)
        slab = Slab(source, target, rows, intermediate)
        for output in outputs:
            output.write(slab)

    # Each thread multiplies its own slab: a multiplication over all cores would wait for the other threads.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(usable_cores()) as pool:
        try:
            at_work = {pool.submit(source.require_trained_base): "the base's digests"}
            for (target, rows), coming in zip_longest(slabs, slabs[SLABS_AHEAD:]):
                at_work[pool.submit(write, target, rows, coming)] = target.name
            for done, future in enumerate(as_completed(at_work), start=1):
                future.result()
                progress.update(f"{shown}  {at_work[future]}", done, len(at_work))
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
