"""The GGUF reader believes no count and no offset: whatever the bytes, it reads the file or says Malformed, in little memory."""

from __future__ import annotations

import random
import struct
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest

from convert.checks.file import SCALE_OFFSETS, first_not_finite
from convert.checks.gguf_file import TENSOR_TYPES, Header, Malformed, Tensor, read_header, to_float32
from medllama.llamacpp.quantizer import quantize_rows
from tests.convert.faults import Gguf, read, write

U8, U32, F32, STRING, BOOL = (
    getattr(gguf.GGUFValueType, name) for name in ("UINT8", "UINT32", "FLOAT32", "STRING", "BOOL")
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file with every kind of metadata and several tensor types."""
    array = gguf.GGUFValueType.ARRAY
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((4, 256)).astype(np.float32)
    content = Gguf(
        {
            "general.architecture": ("llama", STRING, None),
            "llama.block_count": (2, U32, None),
            "llama.rope.freq_base": (10000.0, F32, None),
            "tokenizer.ggml.add_bos_token": (True, BOOL, None),
            "tokenizer.ggml.tokens": (["a", "é", "▁", "\U0001fa7a"], array, STRING),
            "tokenizer.ggml.scores": ([0.0, -1.5], array, F32),
        },
        {
            "a": (rows, gguf.GGMLQuantizationType.F32),
            "b": (rows.astype(np.float16), gguf.GGMLQuantizationType.F16),
            "c": (quantize_rows(rows, "Q4_K"), gguf.GGMLQuantizationType.Q4_K),
            "d": (rows[0], gguf.GGMLQuantizationType.F32),
        },
    )
    path = tmp_path_factory.mktemp("file") / "good.gguf"
    write(content, path)
    return path


def test_the_reader_reads_what_gguf_py_wrote(good: Path) -> None:
    header, theirs = read_header(good), read(good)
    assert {key: value for key, (value, _, _) in theirs.values.items()} == header.metadata
    for tensor in gguf.GGUFReader(good).tensors:
        ours = header.tensors[tensor.name]
        assert (ours.offset, ours.bytes, ours.type) == (tensor.data_offset, tensor.n_bytes, tensor.tensor_type.name)
        assert ours.shape == tuple(int(length) for length in reversed(tensor.shape))
        values = to_float32(header.read_rows(ours), ours.type)
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert (values.reshape(ours.shape) == expected.reshape(ours.shape)).all()


def test_the_sizes_of_the_tensor_types_are_ggmls() -> None:
    named = {kind.value: (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in gguf.GGMLQuantizationType}
    assert named.items() >= (TENSOR_TYPES.items() - {(42, ("Q2_0", 64, 18))})  # which gguf-py does not know yet


def test_a_file_cut_anywhere_is_malformed(good: Path, tmp_path: Path) -> None:
    data, path = good.read_bytes(), tmp_path / "cut.gguf"
    for length in [*range(0, 700, 3), *range(700, len(data), 97), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(Malformed):
            read_header(path)


def test_random_damage_to_the_header_never_crashes_nor_fills_the_memory(good: Path, tmp_path: Path) -> None:
    data, path, source = good.read_bytes(), tmp_path / "damaged.gguf", random.Random(0)
    length = min(tensor.offset for tensor in read_header(good).tensors.values())
    big = [struct.pack("<Q", number) for number in (2**64 - 1, 2**63, 2**40, 2**31, 0)]
    tracemalloc.start()
    for _ in range(1_500):
        damaged = bytearray(data)
        for _ in range(source.randint(1, 3)):
            at = source.randrange(length)
            new = source.choice([*big, bytes([damaged[at] ^ 1 << source.randrange(8)]), b"\xff", b"\x00", b"\x09"])
            damaged[at : at + len(new)] = new
        path.write_bytes(damaged[: len(data)])
        try:
            header = read_header(path)
        except Malformed:
            continue
        for tensor in header.tensors.values():
            first_not_finite(header, tensor)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def counts(tensors: int) -> bytes:
    return struct.pack("<QQ", tensors, 6)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"GGUF", b"GGML", "does not begin with GGUF"),
        (b"GGUF\x03", b"GGUF\x09", "its version is 9"),
        (counts(4), counts(2**60), "says it holds more than is left"),
        (b"llama.block_count\x04", b"llama.block_count\x55", "unknown value type"),
    ],
)
def test_the_message_says_what_is_malformed(good: Path, tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    data, path = good.read_bytes(), tmp_path / "changed.gguf"
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    with pytest.raises(Malformed, match=message):
        read_header(path)


@pytest.mark.parametrize("kind", [name for name, *_ in TENSOR_TYPES.values() if name not in ("IQ1_M", "MXFP4")])
def test_an_infinity_is_found_in_every_type(kind: str, tmp_path: Path) -> None:
    """In the quantized types it is a block's scale that can be infinite: where it stands is gguf-py's word."""
    size = next(256 // values * block for name, values, block in TENSOR_TYPES.values() if name == kind)
    stored = np.zeros((3, size), np.uint8)
    assert _first_not_finite(stored, kind, tmp_path) is None
    if kind == "F32":
        stored.view(np.float32)[1, 7] = np.inf
    else:
        offset = {"F16": 14, "BF16": 14}.get(kind, SCALE_OFFSETS.get(kind, (0,))[-1])
        stored[1, offset : offset + 2] = (0x80, 0x7F) if kind == "BF16" else (0x00, 0x7C)
    assert np.isfinite(to_float32(stored, kind)).all(axis=1).tolist() == [True, False, True]
    assert _first_not_finite(stored, kind, tmp_path) == 1


def _first_not_finite(stored: np.ndarray, kind: str, folder: Path) -> int | None:
    path = folder / "one.gguf"
    path.write_bytes(stored.tobytes())
    tensor = Tensor("t", (len(stored), 256), kind, 0, stored.nbytes)
    return first_not_finite(Header(path, stored.nbytes, {}, {}, {"t": tensor}, 32), tensor)


def test_types_that_gguf_py_does_not_read_are_read_by_their_definition() -> None:
    """A scale of 0.5, then the lowest bits first: of Q1_0 a bit is -1 or 1, of Q2_0 two bits are -1, 0, 1 or 2."""
    block = np.array([[0x00, 0x38, 0b11100100, *[0] * 15]], np.uint8)
    one, two = to_float32(block, "Q1_0"), to_float32(block, "Q2_0")
    assert one.shape == (1, 128)
    assert one[0, :9].tolist() == [-0.5, -0.5, 0.5, -0.5, -0.5, 0.5, 0.5, 0.5, -0.5]
    assert two.shape == (1, 64)
    assert two[0, :5].tolist() == [-0.5, 0.0, 0.5, 1.0, -0.5]


@pytest.mark.parametrize("kind", [name for name, *_ in TENSOR_TYPES.values() if name not in ("F32", "F16", "BF16")])
def test_every_type_is_read_as_ggml_writes_it(kind: str) -> None:
    values = np.random.default_rng(2).standard_normal((4, 512)).astype(np.float32)
    found = to_float32(quantize_rows(values, kind, np.ones(512)), kind)
    assert found.shape == values.shape
    assert np.corrcoef(found.ravel(), values.ravel())[0, 1] > 0.7
