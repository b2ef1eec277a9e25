"""The tensors of a safetensors checkpoint, one at a time: bytes as stored, or float32 values.

A checkpoint of 13 GB is never in memory: each tensor is read when it is asked for. Reading is plain `read`, not a memory map,
since mapped pages count as resident memory.
"""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy
import numpy.typing

from medllama.checkpoint import read_header
from medllama.errors import InputError, UnsupportedError
from medllama.llamacpp.quantizer import float16_to_float32, round_to_float16

Array = numpy.typing.NDArray[Any]
STORED_TYPES: dict[str, numpy.dtype[Any]] = {
    "F32": numpy.dtype("<f4"),
    "F16": numpy.dtype("<f2"),
    "BF16": numpy.dtype("<u2"),
    "I8": numpy.dtype("i1"),  # these two only as parts of a quantized tensor (dequantize.py)
    "U8": numpy.dtype("u1"),
}

RAW_TYPES = {
    "F32": gguf.GGMLQuantizationType.F32,
    "F16": gguf.GGMLQuantizationType.F16,
    "BF16": gguf.GGMLQuantizationType.BF16,
}


# The bits of infinity: a magnitude that is not less is infinite or NaN.
INFINITY_BITS = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}
EVERY_ROW = slice(None)


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: `offset` and `size_bytes` in `path`, `dtype` in safetensors' spelling."""

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int

    def raw(self, rows: slice = EVERY_ROW) -> Array:
        """The values as stored: float32, float16, or the bits of bfloat16 as uint16. InputError where one is NaN or infinite."""
        first, last, _ = rows.indices(self.shape[0] if self.shape else 1)
        row_items = math.prod(self.shape[1:])
        values = self._read(first * row_items, (last - first) * row_items)
        return values.reshape(last - first, *self.shape[1:]) if self.shape else values.reshape(())

    def expect(self, rows: slice = EVERY_ROW) -> None:
        """Let the system begin to read these rows, if it takes advice (macOS takes none)."""
        height = self.shape[0] if self.shape else 1
        first, last, _ = rows.indices(height)
        row_bytes = self.size_bytes // max(1, height)
        begin, size = self.offset + first * row_bytes, (last - first) * row_bytes
        if hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError), self.path.open("rb", buffering=0) as file:
                os.posix_fadvise(file.fileno(), begin, size, os.POSIX_FADV_WILLNEED)

    def float32(self, rows: slice = EVERY_ROW) -> Array:
        """The values as float32, exactly; InputError where one is NaN or infinite."""
        return to_float32(self.raw(rows), self.dtype)

    def float32_columns(self, columns: slice) -> Array:
        """Columns of a matrix as float32, exactly."""
        rows, width = self.shape
        first, last, _ = columns.indices(width)
        parts = [self._read(row * width + first, last - first) for row in range(rows)]
        return to_float32(numpy.stack(parts), self.dtype)

    def _read(self, first: int, count: int) -> Array:
        values = self._values(first, count)
        if bad := count_not_finite(values, self.dtype):
            raise InputError(
                f"{self.path}: {self.name} holds {bad} values that are NaN or infinite",
                hint="the checkpoint is damaged, or was saved in float16 after an overflow; copy or train it again",
            )
        return values

    def _values(self, first: int, count: int) -> Array:
        """`count` values from the `first` on, of the tensor as one row."""
        dtype = STORED_TYPES[self.dtype]
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.offset + first * dtype.itemsize)
                values = numpy.fromfile(file, dtype=dtype, count=count)
        except FileNotFoundError:
            raise changed(self.path) from None
        if len(values) != count:
            raise changed(self.path)
        return values


def changed(path: Path) -> InputError:
    """What to raise where a file is no longer what it was when its header was read."""
    return InputError(f"{path} changed while it was read", hint="start again when nothing else writes to it")


def read_tensors(files: list[Path]) -> dict[str, StoredTensor]:
    """The tensors in safetensors files, by name. The files' sizes are checked against their headers."""
    found = read_parts(files)
    require_floats(found)
    return found


def read_parts(files: list[Path]) -> dict[str, StoredTensor]:
    """The same for tensors of any type, which may be parts of a quantized one."""
    found: dict[str, StoredTensor] = {}
    for path in files:
        header = read_header(path)
        for name, entry in header.tensors.items():
            first, last = entry["data_offsets"]
            if name in found:
                raise InputError(f"{name} stands in {found[name].path} and in {path}", hint="remove the older shards")
            offset = header.data_start + first
            found[name] = StoredTensor(name, path, entry["dtype"], tuple(entry["shape"]), offset, last - first)
    return found


def require_floats(tensors: dict[str, StoredTensor]) -> None:
    """Raise UnsupportedError for a type that is not one of floating-point numbers of 16 or 32 bits."""
    for name, tensor in tensors.items():
        if tensor.dtype not in INFINITY_BITS:
            raise UnsupportedError(
                f"{tensor.path}: {name} is {tensor.dtype}; float32, float16 and bfloat16 checkpoints are converted",
                hint="name the 16-bit base, not a quantized one"
                if tensor.dtype != "F64"
                else "save it in float32: model.float().save_pretrained(...)",
            )


def count_not_finite(raw: Array, dtype: str) -> int:
    """How many stored values are NaN or infinite."""
    if dtype not in INFINITY_BITS:  # a whole number
        return 0
    bits = 32 if dtype == "F32" else 16
    signed, unsigned = raw.view(f"i{bits // 8}"), raw.view(f"u{bits // 8}")
    infinity, sign = INFINITY_BITS[dtype], 1 << (bits - 1)
    # The largest bits tell: of those without a sign as signed numbers, of those with one as unsigned. No copy is made.
    if not raw.size or (signed.max() < infinity and unsigned.max() < sign + infinity):
        return 0
    return int(((unsigned & (sign - 1)) >= infinity).sum())


def to_float32(raw: Array, dtype: str) -> Array:
    """Stored values as float32, exactly (every float16 and bfloat16 is a float32)."""
    if dtype == "BF16":
        bits = raw.astype(numpy.uint32)
        bits <<= 16
        return bits.view(numpy.float32)
    return float16_to_float32(raw) if dtype == "F16" else raw


def round_to(values: Array, file_type: str, name: str) -> Array:
    """float32 values rounded once, to nearest even: float32, float16, or the bits of bfloat16 as uint16.

    Raises UnsupportedError where float16, whose largest value is 65504, would overflow.
    """
    if file_type == "F32":
        return values
    if file_type == "F16":
        rounded = round_to_float16(values)
        if count_not_finite(rounded, "F16"):
            raise UnsupportedError(
                f"{name} holds {float(numpy.abs(values).max()):.6g}, and float16 ends at 65504",
                hint="ask for a 16-bit file that holds it: --types BF16",
            )
        return rounded
    bits = numpy.ascontiguousarray(values).view(numpy.uint32)
    upper = bits >> 16
    upper &= 1
    upper += 0x7FFF
    upper += bits
    upper >>= 16
    return upper.astype(numpy.uint16)
