"""An importance matrix as llama.cpp wrote it before it had a GGUF for that: files called .dat or .imatrix, of which many are about.

    int32 entries, then for each: int32 length, name, int32 calls, int32 columns, float32[columns]: mean squares times calls
    int32 chunks, int32 length, name of the text: these may be missing

Numbers are little-endian. Source followed: llama.cpp's common/imatrix-loader.cpp and tools/quantize/quantize.cpp.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy

from medllama.llamacpp.importance import Activations

MOST_ENTRIES = 1 << 20


def read_dat(path: Path) -> tuple[dict[str, Activations], tuple[str, ...], int]:
    """The sums of each tensor, the name of the text, and the chunks that were read. Raises ValueError where it is no such file."""
    with path.open("rb") as file:
        count = _number(file)
        if not 0 < count < MOST_ENTRIES:
            raise ValueError(f"it begins with {count}, which is no number of tensors")
        found = {}
        for _ in range(count):
            name = _bytes(file, _number(file)).decode()
            calls, columns = _number(file), _number(file)
            sums = numpy.frombuffer(_bytes(file, 4 * columns), "<f4").astype(numpy.float64)
            found[name] = Activations(sums, max(1, calls))  # without calls the values are means already
        rest = file.read()
    chunks = int(struct.unpack_from("<i", rest)[0]) if len(rest) >= 4 else 0
    text = rest[8:].decode()
    return found, (text,) if text else (), chunks


def _number(file: BinaryIO) -> int:
    return int(struct.unpack("<i", _bytes(file, 4))[0])


def _bytes(file: BinaryIO, count: int) -> bytes:
    read = file.read(count) if count > 0 else b""
    if len(read) != count:
        raise ValueError("it is cut short, or in another format")
    return read
