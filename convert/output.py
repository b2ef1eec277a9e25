"""One GGUF to be written: its header, and the place of every tensor's rows in it.

    plan = plan_output(source, "Q4_K_M", "F16")      # nothing is written
    with open_output(plan, source, path) as output:  # the header, and room for the rest
        output.write(slab)

Which type each tensor gets in a quantized file is llama.cpp's decision: it is asked about a file of the same architecture and
tensors, each of a few rows.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy
import numpy.typing

from convert.config import FILE_TYPES, UNQUANTIZED, WITHOUT_IMPORTANCE
from convert.importance import Importance, Weights, write_importance_origin
from convert.metadata import write_architecture, write_provenance, write_tokenizer
from convert.slab import Slab
from convert.source import Source
from convert.weights import round_to, to_float32
from medllama.errors import ResourceError, UnsupportedError
from medllama.llamacpp import LlamaCppError, reason
from medllama.llamacpp.quantizer import row_bytes, tensor_types, type_numbers

Array = numpy.typing.NDArray[Any]
FREQUENCIES = "rope_freqs.weight"


@dataclass(frozen=True)
class Plan:
    """A file's type, the type and shape (rows first) of every tensor in the file's order, and what weights the columns."""

    file_type: str
    types: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    importance: Importance | None = None

    def weights(self, name: str) -> Weights | None:
        """The weight of each column of a tensor, where it has any."""
        return self.importance.weights.get(name) if self.importance is not None else None

    def weighted_by(self, importance: Importance | None) -> Plan:
        """The same with weights, where the type has a use for them."""
        return self if self.file_type in WITHOUT_IMPORTANCE else replace(self, importance=importance)

    def tensor_bytes(self, name: str) -> int:
        shape = self.shapes[name]
        return math.prod(shape[:-1]) * row_bytes(self.types[name], shape[-1])

    @functools.cached_property
    def offsets(self) -> dict[str, int]:
        """Where each tensor begins, in bytes from the beginning of the data."""
        found, end = {}, 0
        for name in self.types:
            found[name] = end
            end += _padded(self.tensor_bytes(name))
        return found

    @property
    def data_bytes(self) -> int:
        last = next(reversed(self.types))
        return self.offsets[last] + _padded(self.tensor_bytes(last))


@dataclass
class Output:
    """An open file with a complete header."""

    plan: Plan
    descriptor: int
    data_start: int

    @property
    def file_type(self) -> str:
        return self.plan.file_type

    def write(self, slab: Slab) -> None:
        """Write rows of a tensor where they belong. Safe from several threads."""
        name = slab.target.name
        type_name = self.plan.types[name]
        if type_name == "F16" != slab.intermediate and self.file_type not in UNQUANTIZED:
            # What divides into no blocks: F16, made of the 16-bit file's values as everything else.
            values = to_float32(slab.in_gguf(slab.intermediate, None), slab.intermediate)
            rows = round_to(values, type_name, slab.target.source)
        else:
            rows = slab.in_gguf(type_name, self.plan.weights(name))
        self.write_rows(name, slab.rows.start, rows)

    def write_rows(self, name: str, first_row: int, rows: Array) -> None:
        """Write rows as they stand in the file."""
        row = row_bytes(self.plan.types[name], self.plan.shapes[name][-1])
        write_at(self.descriptor, self.data_start + self.plan.offsets[name] + first_row * row, rows)


def plan_outputs(
    source: Source, file_types: list[str], intermediate: str, *, has_importance: bool = False
) -> list[Plan]:
    """What each file will hold. `intermediate` is the 16-bit type whose values are quantized; llama.cpp's mixtures depend on
    whether there is an importance matrix, not on what it says.

    Raises UnsupportedError where llama.cpp cannot make a file without an importance matrix.
    """
    shapes: dict[str, tuple[int, ...]] = {target.name: target.shape for target in source.targets}
    if (factors := _frequencies(source)) is not None:
        shapes[FREQUENCIES] = factors.shape
    plans = {
        name: Plan(name, _unquantized(shapes, name), shapes)
        for name in (*file_types, intermediate)
        if name in UNQUANTIZED
    }
    if any(name not in plans for name in file_types):
        with tempfile.TemporaryDirectory() as folder:
            skeleton = Path(folder) / "skeleton.gguf"
            low = replace(plans[intermediate], shapes={name: _two_rows(shape) for name, shape in shapes.items()})
            os.truncate(skeleton, _write_header(low, source, skeleton) + low.data_bytes)
            for name in file_types:
                if name not in plans:
                    is_weighted = has_importance and name not in WITHOUT_IMPORTANCE
                    plans[name] = Plan(name, _mixture(skeleton, name, has_importance=is_weighted), shapes)
    return [plans[name] for name in file_types]


def _two_rows(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A matrix of as many columns: the mixtures depend on no more, and the whole would be a hole of 13 GB, which not every file
    system, and no limit on a file's size, lets be."""
    return shape if len(shape) == 1 else (min(2, shape[0]), *shape[1:])


def _unquantized(shapes: dict[str, tuple[int, ...]], file_type: str) -> dict[str, str]:
    """Matrices get the file's type, vectors stay float32, as llama.cpp wants them."""
    return {name: file_type if len(shape) > 1 else "F32" for name, shape in shapes.items()}


def _mixture(skeleton: Path, file_type: str, *, has_importance: bool) -> dict[str, str]:
    try:
        return tensor_types(skeleton, FILE_TYPES[file_type], has_importance=has_importance)
    except UnsupportedError as error:
        raise UnsupportedError(
            f"{file_type} needs an importance matrix, without which its answers would be garbage",
            hint="make one with --importance auto --importance-data DIR, or choose another type, such as Q2_K or IQ3_S",
        ) from error
    except LlamaCppError as error:
        raise UnsupportedError(
            f"llama.cpp makes no {file_type} of this model: {reason()}", hint="choose another type"
        ) from error


@contextlib.contextmanager
def open_output(plan: Plan, source: Source, path: Path) -> Iterator[Output]:
    """Write the header to `path`, take the room for the whole file on the disk, and yield it open.

    Raises ResourceError where the disk has not that room.
    """
    data_start = _write_header(plan, source, path)
    size_bytes = data_start + plan.data_bytes
    with room(path, size_bytes) as descriptor:
        output = Output(plan, descriptor, data_start)
        if (factors := _frequencies(source)) is not None:
            output.write_rows(FREQUENCIES, 0, factors)
        yield output


@contextlib.contextmanager
def room(path: Path, size_bytes: int) -> Iterator[int]:
    """Make the file `path` as long as it will be, take the room for it on the disk, and yield its descriptor."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.truncate(descriptor, size_bytes)
        _take_room(descriptor, size_bytes, path)
        yield descriptor
    finally:
        os.close(descriptor)


def _take_room(descriptor: int, size_bytes: int, path: Path) -> None:
    if not hasattr(os, "posix_fallocate"):  # macOS: a full disk shows when it is full
        return
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):  # not every file system can
            return
        raise ResourceError(
            f"there is no room for {path} ({size_bytes / 1e6:,.1f} MB): {error.strerror}",
            hint="free some space, or choose another --output-dir",
        ) from error


def write_at(descriptor: int, place: int, values: Array) -> None:
    """Write an array's bytes from byte `place` on. Safe from several threads."""
    left = memoryview(numpy.ascontiguousarray(values).data).cast("B")
    while left:
        written = os.pwrite(descriptor, left, place)
        left, place = left[written:], place + written


def _write_header(plan: Plan, source: Source, path: Path) -> int:
    """Write everything before the tensors' data; returns where the data begin. The order of keys is llama-quantize's."""
    writer = gguf.GGUFWriter(path, "llama")
    write_provenance(writer, source.provenance, source.parameters)
    write_architecture(writer, source.shape, len(source.vocabulary))
    write_tokenizer(writer, source.vocabulary, source.template, source.ends)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(FILE_TYPES[plan.file_type])
    if plan.importance is not None:
        write_importance_origin(writer, plan.importance)
    for name, type_name in plan.types.items():
        writer.add_tensor_info(
            name,
            plan.shapes[name],
            numpy.dtype(numpy.float32),
            plan.tensor_bytes(name),
            type_numbers()[type_name],
        )
    with contextlib.closing(writer):
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    return _padded(path.stat().st_size)


def _frequencies(source: Source) -> Array | None:
    """The divisors of the rotary frequencies, (head_dim / 2,) float32, where the model scales them one by one."""
    return source.shape.rope.frequency_factors(source.shape.head_dim)


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // gguf.GGUF_DEFAULT_ALIGNMENT) * gguf.GGUF_DEFAULT_ALIGNMENT
