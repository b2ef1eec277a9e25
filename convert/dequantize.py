"""A base whose values are not the stored ones: `medllama convert --base-values dequantized` and `nf4` (medllama/base_values.py).

    medllama convert --base-model DIR --base-values dequantized --types F16 --output-dir OUT

bitsandbytes keeps a matrix as one row of 4-bit codes in blocks (64 values, usually). A value is the code's entry in a table times
its block's scale, in float32, rounded once to the type that the matrix had. With double quantization the scales are 8-bit codes
themselves, in blocks of 256, with an offset. Its 8-bit matrices have a scale for each row.

`nf4` does what QLoRA's training does when it loads a base: it quantizes each linear layer with double quantization and computes
with the values that come out. The offset is the scales' mean: taken here in float64, so that it does not depend on the device.

Everything is computed for the rows that are asked for. Tests hold it against bitsandbytes, whose functional.py and
backends/default/ops.py (0.50) were followed.
"""

from __future__ import annotations

import functools
import json
import math
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy
import numpy.typing

from convert.weights import StoredTensor, read_parts, read_tensors, require_floats, round_to, to_float32
from medllama.base_values import BaseValues, nf4_dtype
from medllama.errors import InputError, UnsupportedError

Array = numpy.typing.NDArray[Any]

NF4 = numpy.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
        -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ],
    numpy.float32,
)  # fmt: skip
FP4 = numpy.array([0, 0.0625, 8, 12, 4, 6, 2, 3, 0, -0.0625, -8, -12, -4, -6, -2, -3], numpy.float32) / 12
TABLES: dict[str, Array] = {"nf4": NF4, "fp4": FP4}
TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
STATE = ".quant_state.bitsandbytes__"
BLOCK, SCALES_BLOCK = 64, 256  # of `nf4`
SMALLEST = numpy.float32(1e-38)  # in place of the scale of a block of zeros
EIGHT_BITS = numpy.float32(1 / 127)


def read_base_tensors(files: list[Path], choice: BaseValues, adapter: Path | None) -> dict[str, StoredTensor]:
    """The base's tensors with the values that are asked for, by name."""
    if choice == "stored":
        return read_tensors(files)
    if choice == "dequantized":
        return _dequantized(read_parts(files))
    assert adapter is not None, "ConvertConfig.problems asks for it"
    stored, dtype = read_tensors(files), nf4_dtype(adapter)
    # Transformers quantizes every linear layer but the head.
    return {
        name: through_nf4(tensor, dtype or tensor.dtype) if name.endswith("_proj.weight") else tensor
        for name, tensor in stored.items()
    }


def _dequantized(parts: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Every tensor of a checkpoint that bitsandbytes saved: quantized ones in place of their parts, the others as they are."""
    found = dict(parts)
    for name in parts:
        weight, is_four_bit, kind = name.partition(STATE)
        if is_four_bit:
            own = {part: parts[part] for part in parts if part.startswith(f"{weight}.")}
            found = {part: tensor for part, tensor in found.items() if part not in own}
            found[weight] = _four_bit(weight, kind, parts)
        elif name.endswith(".SCB"):
            module = name.removesuffix(".SCB")
            for part in (name, f"{module}.weight_format"):
                found.pop(part, None)
            found[f"{module}.weight"] = _eight_bit(module, parts)
    require_floats(found)
    return found


@dataclass(frozen=True)
class Scales:
    """The scale of each block: `stored` float32, or codes into a table, which `nested` and `offset` make scales."""

    stored: StoredTensor
    nested: Array | None = None  # (blocks of blocks,) float32
    table: Array | None = None
    block: int = SCALES_BLOCK
    offset: numpy.float32 = numpy.float32(0)

    def of(self, first: int, last: int) -> Array:
        """The scales of the blocks from `first` to before `last`, float32."""
        values = self.stored.raw(slice(first, last))
        if self.nested is None or self.table is None:
            return values
        return unnested(values, first, self.table, self.nested, self.block, self.offset)


def unnested(codes: Array, first: int, table: Array, nested: Array, block: int, offset: numpy.float32) -> Array:
    """Scales of 8-bit codes, of which the first is that of block `first`: float32."""
    return table[codes] * nested[numpy.arange(first, first + len(codes)) // block] + offset


@dataclass(frozen=True)
class FourBit(StoredTensor):
    """A matrix of 4-bit codes, two a byte, the first in the upper half. `dtype` and `shape` are those of its values."""

    packed: StoredTensor
    table: Array
    scales: Scales
    block: int

    def _values(self, first: int, count: int) -> Array:
        pairs = self.packed.raw(slice(first // 2, (first + count + 1) // 2))
        codes = numpy.stack((pairs >> 4, pairs & 15), axis=1).reshape(-1)[first % 2 :][:count]
        begin = first // self.block
        scales = self.scales.of(begin, -(-(first + count) // self.block))
        values = self.table[codes] * scales[numpy.arange(first, first + count) // self.block - begin]
        return round_to(values, self.dtype, self.name)


@dataclass(frozen=True)
class EightBit(StoredTensor):
    """A matrix of 8-bit integers with the largest magnitude of each row; its values are float32."""

    codes: StoredTensor
    scales: StoredTensor

    def _values(self, first: int, count: int) -> Array:
        codes = self.codes._values(first, count).astype(numpy.float32)
        return codes * self.scales.raw()[numpy.arange(first, first + count) // self.shape[1]] * EIGHT_BITS


def _four_bit(weight: str, kind: str, parts: dict[str, StoredTensor]) -> FourBit:
    """The matrix `weight`, put together of its parts."""

    def part(name: str, dtype: str, size: int) -> StoredTensor:
        found = parts.get(f"{weight}.{name}" if name else weight)
        if found is None or found.size_bytes != size * (4 if dtype == "F32" else 1) or (name and found.dtype != dtype):
            raise damaged
        return replace(found, dtype=dtype, shape=(size,))

    stored = parts[f"{weight}{STATE}{kind}"]
    damaged = InputError(
        f"{stored.path}: the parts of {weight} are not those that bitsandbytes writes", hint="copy the checkpoint again"
    )
    try:
        state = json.loads(stored.raw().tobytes())
        shape, block, dtype = tuple(map(int, state["shape"])), int(state["blocksize"]), TYPES[state["dtype"]]
        table, is_nested = TABLES[kind], "nested_offset" in state
        nested_block, offset = int(state.get("nested_blocksize", 1)), numpy.float32(state.get("nested_offset", 0))
        count, blocks = math.prod(shape), -(-math.prod(shape) // block)
        nested_blocks = -(-blocks // nested_block)
    except (ValueError, KeyError, TypeError, ZeroDivisionError):
        raise damaged from None
    packed = part("", "U8", (count + 1) // 2)  # whatever type its bytes are kept in
    if not is_nested:
        scales = Scales(part("absmax", "F32", blocks))
    else:
        nested = part("nested_absmax", "F32", nested_blocks).raw()
        scales_table = part("nested_quant_map", "F32", 256).raw()
        scales = Scales(part("absmax", "U8", blocks), nested, scales_table, nested_block, offset)
    return FourBit(weight, packed.path, dtype, shape, 0, 0, packed, table, scales, block)


def _eight_bit(module: str, parts: dict[str, StoredTensor]) -> EightBit:
    codes, scales = parts.get(f"{module}.weight"), parts[f"{module}.SCB"]
    if codes is None or codes.dtype != "I8" or scales.dtype != "F32" or scales.shape != codes.shape[:1]:
        hint = "copy the checkpoint again"
        raise InputError(f"{scales.path}: SCB of {module} does not fit its 8-bit weight", hint=hint)
    layout = parts.get(f"{module}.weight_format")
    if layout is not None and layout.raw().item() != 0:
        hint = "load it with Transformers and bitsandbytes and save_pretrained it: that writes rows"
        raise UnsupportedError(f"{scales.path}: {module} is laid out for one kind of GPU", hint=hint)
    return EightBit(codes.name, codes.path, "F32", codes.shape, 0, 0, codes, scales)


@dataclass(frozen=True)
class ThroughNf4(StoredTensor):
    """A matrix whose values are `exact`'s, rounded to `dtype`, to 4 bits, and back to `dtype`."""

    exact: StoredTensor
    lock: threading.Lock = field(repr=False, compare=False, default_factory=threading.Lock)

    def _values(self, first: int, count: int) -> Array:
        begin, end = first // BLOCK, -(-(first + count) // BLOCK)
        blocks = self._blocks(begin, end)
        largest = numpy.maximum(numpy.abs(blocks).max(axis=1, keepdims=True), SMALLEST)
        codes = nearest(blocks * (numpy.float32(1) / largest), NF4)
        with self.lock:  # one thread makes them for all
            scale_codes, nested, offset = self._scales
        scales = unnested(scale_codes[begin:end], begin, scales_table(), nested, SCALES_BLOCK, offset)
        values = (NF4[codes] * scales[:, None]).reshape(-1)
        return round_to(values[first - begin * BLOCK :][:count], self.dtype, self.name)

    @functools.cached_property
    def _scales(self) -> tuple[Array, Array, numpy.float32]:
        """The code of each block's scale, the scale of every 256 of them, and the offset."""
        blocks, step = -(-math.prod(self.shape) // BLOCK), 1 << 14
        largest = numpy.concatenate(
            [numpy.abs(self._blocks(first, first + step)).max(axis=1) for first in range(0, blocks, step)]
        )
        offset = numpy.float32(largest.mean(dtype=numpy.float64))
        shifted = numpy.pad(largest - offset, (0, -blocks % SCALES_BLOCK)).reshape(-1, SCALES_BLOCK)
        nested = numpy.maximum(numpy.abs(shifted).max(axis=1), SMALLEST)
        codes = nearest(shifted * (numpy.float32(1) / nested)[:, None], scales_table())
        return codes.reshape(-1)[:blocks], nested, offset

    def _blocks(self, begin: int, end: int) -> Array:
        """The exact values of some blocks, (blocks, 64) float32 in the precision of `dtype`; zeros after the last."""
        first, last = begin * BLOCK, min(end * BLOCK, math.prod(self.shape))
        values = to_float32(self.exact._read(first, last - first), self.exact.dtype)
        values = to_float32(round_to(values, self.dtype, self.name), self.dtype)
        return numpy.pad(values, (0, -len(values) % BLOCK)).reshape(-1, BLOCK)


def through_nf4(tensor: StoredTensor, dtype: str) -> ThroughNf4:
    """A matrix as QLoRA's training in `dtype` sees it."""
    return ThroughNf4(tensor.name, tensor.path, dtype, tensor.shape, 0, 0, tensor)


def nearest(values: Array, table: Array) -> Array:
    """The number of the nearest entry of a rising table, of two equally near ones the lower: uint8."""
    return numpy.searchsorted((table[:-1] + table[1:]) / numpy.float32(2), values).astype(numpy.uint8)


@functools.cache
def scales_table() -> Array:
    """The 256 values of a nested scale: a sign, a power of ten from 1e-6 to 1, and the finer a fraction the larger that is
    (Dettmers 2015, arXiv 1511.04561)."""
    values = [0.0, 1.0]
    for exponent in range(7):
        bounds = numpy.linspace(0.1, 1.0, 2**exponent + 1)
        middles = 10.0 ** (exponent - 6) * (bounds[:-1] + bounds[1:]) / 2
        values += [*middles, *-middles]
    return numpy.sort(numpy.array(values, numpy.float32))
