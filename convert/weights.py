"""The tensors of a safetensors checkpoint, one at a time: bytes as stored, or float32 values.

A checkpoint of 13 GB is never in memory: each tensor is read when it is asked for. Reading is plain `read`, not a memory map,
since mapped pages count as resident memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy
import numpy.typing

from medllama.checkpoint import read_header
from medllama.errors import InputError, UnsupportedError

Array = numpy.typing.NDArray[Any]
STORED_TYPES: dict[str, numpy.dtype[Any]] = {
    "F32": numpy.dtype("<f4"),
    "F16": numpy.dtype("<f2"),
    "BF16": numpy.dtype("<u2"),
}

RAW_TYPES = {
    "F32": gguf.GGMLQuantizationType.F32,
    "F16": gguf.GGMLQuantizationType.F16,
    "BF16": gguf.GGMLQuantizationType.BF16,
}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: `offset` and `size_bytes` in `path`, `dtype` in safetensors' spelling."""

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int

    def raw(self) -> Array:
        """The values as stored: float32, float16, or the bits of bfloat16 as uint16."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = numpy.fromfile(
                file, dtype=STORED_TYPES[self.dtype], count=self.size_bytes // STORED_TYPES[self.dtype].itemsize
            )
        return data.reshape(self.shape)

    def float32(self) -> Array:
        """The values as float32, exactly; InputError where one is NaN or infinite."""
        values = to_float32(self.raw(), self.dtype)
        if not numpy.isfinite(values).all():
            bad = int((~numpy.isfinite(values)).sum())
            raise InputError(
                f"{self.path}: {self.name} holds {bad} values that are NaN or infinite",
                hint="the checkpoint is damaged, or was saved in float16 after an overflow; copy or train it again",
            )
        return values


def read_tensors(files: list[Path]) -> dict[str, StoredTensor]:
    """The tensors in safetensors files, by name. The files' sizes are checked against their headers."""
    found: dict[str, StoredTensor] = {}
    for path in files:
        header = read_header(path)
        for name, entry in header.tensors.items():
            first, last = entry["data_offsets"]
            if name in found:
                raise InputError(f"{name} stands in {found[name].path} and in {path}", hint="remove the older shards")
            if entry["dtype"] not in STORED_TYPES:
                raise UnsupportedError(
                    f"{path}: {name} is {entry['dtype']}; float32, float16 and bfloat16 checkpoints are converted",
                    hint="name the 16-bit base, not a quantized one",
                )
            offset = header.data_start + first
            found[name] = StoredTensor(name, path, entry["dtype"], tuple(entry["shape"]), offset, last - first)
    return found


def to_float32(raw: Array, dtype: str) -> Array:
    """Stored values as float32, exactly (every float16 and bfloat16 is a float32)."""
    if dtype == "BF16":
        return (raw.astype(numpy.uint32) << 16).view(numpy.float32)
    return raw.astype(numpy.float32, copy=False)


def round_to(values: Array, file_type: str, name: str) -> Array:
    """float32 values rounded once, to nearest even: float32, float16, or the bits of bfloat16 as uint16.

    Raises UnsupportedError where float16, whose largest value is 65504, would overflow.
    """
    if file_type == "F32":
        return values
    if file_type == "F16":
        with numpy.errstate(over="ignore"):
            rounded = values.astype(numpy.float16)
        if not numpy.isfinite(rounded).all():
            raise UnsupportedError(
                f"{name} holds {float(numpy.abs(values).max()):.6g}, and float16 ends at 65504",
                hint="use BF16: --types BF16,...",
            )
        return rounded
    bits = values.view(numpy.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(numpy.uint16)
