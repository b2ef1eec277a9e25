"""A GGUF file read by hand: header, metadata and tensor table, every count checked before it is believed.

    header = read_header(Path("medllama-F16.gguf"))
    header.metadata["llama.block_count"], header.tensors["blk.0.attn_q.weight"].shape

llama.cpp trusts much of what a file says of itself, and a file that lies can end the process that opens it. So verify reads it
first, in Python, where the worst outcome is `Malformed`. Nothing is allocated by a count before the bytes that it promises
are known to be there. It shares no code with the converter, and the header none with gguf-py, which the converter writes
with.

Source followed: docs/gguf.md of ggml, and `gguf_init_from_file_impl` in llama.cpp's ggml/src/gguf.cpp.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4
MAX_NAME_BYTES = 63  # GGML_MAX_NAME less its terminating zero
STRING, ARRAY = 8, 9

# The value types of metadata: number -> little-endian numpy type.
SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}

# The tensor types: number -> name, values in a block, bytes of a block (GGML_QUANT_SIZES, ggml-common.h).
TENSOR_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
}  # fmt: skip


class Malformed(Exception):
    """The file is not a well-formed GGUF; the message says where and how."""


@dataclass(frozen=True)
class Tensor:
    """One entry of the tensor table. `shape` is (rows, columns) as in numpy, the reverse of GGUF's order; `offset` counts
    from the beginning of the file."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    bytes: int

    @property
    def rows(self) -> int:
        return self.shape[0] if len(self.shape) > 1 else 1

    @property
    def row_bytes(self) -> int:
        return self.bytes // self.rows


@dataclass(frozen=True)
class Header:
    """What a GGUF file says before its data."""

    path: Path
    bytes: int
    metadata: dict[str, Any]
    value_types: dict[str, int]  # of an array: the type of its elements, plus 100
    tensors: dict[str, Tensor]
    alignment: int

    def read_rows(self, tensor: Tensor, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows `start` to `stop` of a tensor as stored: (rows, row_bytes) uint8. Plain reads, so that memory stays low."""
        count = (tensor.rows if stop is None else stop) - start
        flat = np.fromfile(
            self.path, np.uint8, count * tensor.row_bytes, offset=tensor.offset + start * tensor.row_bytes
        )
        return flat.reshape(count, tensor.row_bytes)

    def count(self, key: str) -> int:
        """The length of an array in the metadata; 0 where there is none."""
        value = self.metadata.get(key)
        return len(value) if isinstance(value, list) else 0


class _Reader:
    """Reads forward and refuses to pass the end of the file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size, self.position = file, size, 0

    def take(self, count: int, what: str) -> bytes:
        if count > self.size - self.position:
            raise Malformed(
                f"{what} at byte {self.position} would need {count} bytes, and the file has {self.size - self.position} more"
            )
        self.position += count
        return self.file.read(count)

    def number(self, layout: str, what: str) -> Any:
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout), what))[0]

    def text(self, what: str) -> str:
        raw = self.take(self.number("Q", f"the length of {what}"), what)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise Malformed(f"{what}, which ends at byte {self.position}, is no UTF-8") from None

    def value(self, kind: int, what: str) -> Any:
        if kind == STRING:
            return self.text(what)
        if kind not in SCALARS:
            raise Malformed(f"{what} at byte {self.position} has the unknown value type {kind}")
        layout = np.dtype(SCALARS[kind])
        raw = self.take(layout.itemsize, what)
        if kind == 7 and raw not in (b"\0", b"\1"):
            raise Malformed(f"{what} is neither true nor false, but {raw[0]}")
        return np.frombuffer(raw, layout)[0].item()

    def array(self, kind: int, count: int, what: str) -> list[Any]:
        if kind == STRING:
            # A string takes 8 bytes at least: a count that cannot be there is refused before a list grows by it.
            self.require(count * 8, what)
            return [self.text(f"{what}[{index}]") for index in range(count)]
        if kind not in SCALARS:
            raise Malformed(f"{what} is an array of the type {kind}, which GGUF does not have or allow there")
        layout = np.dtype(SCALARS[kind])
        self.require(count * layout.itemsize, what)
        return np.frombuffer(self.take(count * layout.itemsize, what), layout).tolist()

    def require(self, count: int, what: str) -> None:
        if count > self.size - self.position:
            raise Malformed(f"{what} says it holds more than is left of the file")


def read_header(path: Path) -> Header:
    """The header of `path`. Raises Malformed, and nothing else, whatever bytes the file holds."""
    size = path.stat().st_size
    with path.open("rb") as file:
        reader = _Reader(file, size)
        if reader.take(4, "the magic") != MAGIC:
            raise Malformed("it does not begin with GGUF")
        version = reader.number("I", "the version")
        if version not in VERSIONS:
            raise Malformed(f"its version is {version}; known are {VERSIONS[0]} and {VERSIONS[1]}")
        tensor_count = reader.number("Q", "the number of tensors")
        value_count = reader.number("Q", "the number of metadata values")
        metadata, value_types = _read_metadata(reader, value_count)
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise Malformed(f"general.alignment is {alignment}, not a power of two")
        entries = _read_tensor_table(reader, tensor_count)
        data_start = -(-reader.position // alignment) * alignment
    tensors = {}
    for name, shape, kind, relative in entries:
        tensors[name] = _place(name, shape, kind, relative, data_start, alignment, size)
    _refuse_overlap(list(tensors.values()))
    return Header(path, size, metadata, value_types, tensors, alignment)


def _read_metadata(reader: _Reader, count: int) -> tuple[dict[str, Any], dict[str, int]]:
    reader.require(count * 13, "the metadata")  # a key's length, a value's type and one byte
    metadata: dict[str, Any] = {}
    types: dict[str, int] = {}
    for index in range(count):
        key = reader.text(f"metadata key {index}")
        if key in metadata:
            raise Malformed(f"the metadata key {key!r} occurs twice")
        kind = reader.number("I", f"the type of {key!r}")
        if kind == ARRAY:
            kind = reader.number("I", f"the element type of {key!r}")
            metadata[key] = reader.array(kind, reader.number("Q", f"the length of {key!r}"), repr(key))
            types[key] = 100 + kind
        else:
            metadata[key] = reader.value(kind, repr(key))
            types[key] = kind
    return metadata, types


def _read_tensor_table(reader: _Reader, count: int) -> list[tuple[str, tuple[int, ...], int, int]]:
    reader.require(count * 24, "the tensor table")
    entries: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
    for index in range(count):
        name = reader.text(f"the name of tensor {index}")
        if name in entries:
            raise Malformed(f"the tensor {name!r} occurs twice")
        if len(name.encode()) > MAX_NAME_BYTES:
            raise Malformed(f"the name of tensor {index} is longer than {MAX_NAME_BYTES} bytes")
        dimensions = reader.number("I", f"the dimensions of {name!r}")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise Malformed(f"the tensor {name!r} has {dimensions} dimensions")
        shape = tuple(reader.number("Q", f"the shape of {name!r}") for _ in range(dimensions))
        kind = reader.number("I", f"the type of {name!r}")
        entries[name] = (name, shape[::-1], kind, reader.number("Q", f"the offset of {name!r}"))
    return list(entries.values())


def _place(
    name: str, shape: tuple[int, ...], kind: int, relative: int, data_start: int, alignment: int, size: int
) -> Tensor:
    """The tensor with its place in the file, after its type, shape and offset were found possible."""
    if kind not in TENSOR_TYPES:
        raise Malformed(f"the tensor {name!r} has the unknown type {kind}")
    type_name, block, block_bytes = TENSOR_TYPES[kind]
    elements = 1
    for length in shape:
        elements *= length
    if elements == 0 or elements >= 1 << 63:
        raise Malformed(f"the tensor {name!r} has the shape {shape}")
    if shape[-1] % block:
        raise Malformed(f"the tensor {name!r} is {type_name}, and its rows of {shape[-1]} are no multiple of {block}")
    length = elements // block * block_bytes
    if relative % alignment:
        raise Malformed(f"the tensor {name!r} begins at {relative}, which is no multiple of the alignment {alignment}")
    if data_start + relative + length > size:
        raise Malformed(
            f"the tensor {name!r} ends at byte {data_start + relative + length}, and the file has {size}: it is cut short"
        )
    return Tensor(name, shape, type_name, data_start + relative, length)


def _refuse_overlap(tensors: list[Tensor]) -> None:
    ordered = sorted(tensors, key=lambda tensor: tensor.offset)
    for before, after in itertools.pairwise(ordered):
        if before.offset + before.bytes > after.offset:
            raise Malformed(f"the tensors {before.name!r} and {after.name!r} overlap")


def to_float32(raw: np.ndarray, type_name: str) -> np.ndarray:
    """Stored rows (rows, row_bytes) as (rows, columns) float32; quantized types by gguf-py's arithmetic, or for what it does not
    read by our own, not llama.cpp's."""
    if type_name == "F32":
        return raw.view("<f4")
    if type_name == "F16":
        return raw.view("<f2").astype(np.float32)
    if type_name == "BF16":
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    import gguf

    with np.errstate(all="ignore"):
        if type_name in ("Q1_0", "Q2_0"):
            return _from_few_bits(raw, bits=int(type_name[1]))
        values = gguf.quants.dequantize(np.ascontiguousarray(raw), gguf.GGMLQuantizationType[type_name])
        return values.astype(np.float32, copy=False)


def _from_few_bits(raw: np.ndarray, bits: int) -> np.ndarray:
    """Q1_0 and Q2_0: blocks of a float16 scale and 16 bytes of values, the lowest bits first. A bit is -1 or 1, two are -1 to 2."""
    blocks = raw.reshape(raw.shape[0], -1, 18)
    scales = np.ascontiguousarray(blocks[:, :, :2]).view("<f2").astype(np.float32)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    stored = (blocks[:, :, 2:, None] >> shifts & (1 << bits) - 1).reshape(*blocks.shape[:2], -1).astype(np.float32)
    return ((2 * stored - 1 if bits == 1 else stored - 1) * scales).reshape(raw.shape[0], -1)
