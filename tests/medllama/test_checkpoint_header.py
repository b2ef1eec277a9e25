"""The header of a safetensors file is believed only where it fits the file: cut anywhere or lying in any way, it is refused."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from medllama.checkpoint import read_header
from medllama.errors import InputError

WEIGHTS = {
    "a": numpy.arange(6, dtype=numpy.float32).reshape(2, 3),
    "b": numpy.ones((4,), dtype=numpy.float16),
    "c": numpy.zeros((0, 8), dtype=numpy.float32),
    "d": numpy.arange(3, dtype=numpy.int64),
    "e": numpy.zeros((0,), dtype=numpy.int64),
}
CONTENT = save(WEIGHTS, metadata={"format": "pt"})
HEADER = json.loads(CONTENT[8 : 8 + struct.unpack("<Q", CONTENT[:8])[0]])
DATA = CONTENT[8 + struct.unpack("<Q", CONTENT[:8])[0] :]


def file_of(header: Any, data: bytes = DATA) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def changed(how: Callable[[Any], None]) -> bytes:
    header = json.loads(json.dumps(HEADER))
    how(header)
    return file_of(header)


def test_a_whole_file_passes_whatever_its_tensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for content in (CONTENT, file_of(HEADER), save({})):
        path.write_bytes(content)
        header = read_header(path)
        assert header.tensors.keys() == load(content).keys()
        assert content[header.data_start :] == (DATA if header.tensors else b"")


def test_a_file_cut_at_any_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for kept in range(len(CONTENT)):
        path.write_bytes(CONTENT[:kept])
        with pytest.raises(InputError) as caught:
            read_header(path)
        assert caught.value.message.startswith(str(path))
        assert caught.value.hint
    path.write_bytes(CONTENT + b"\0")
    with pytest.raises(InputError, match="bytes where its header says"):
        read_header(path)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (lambda header: header["a"].update(shape=[2, 4]), "a has 24 bytes where its shape needs 32"),
        (lambda header: header["a"].update(dtype="F16"), "a has 24 bytes where its shape needs 12"),
        (lambda header: header["a"].update(shape=[-2, -3]), "is no safetensors file"),
        (lambda header: header["a"].update(shape=[2.0, 3.0]), "is no safetensors file"),
        (lambda header: header["a"].update(data_offsets=[-24, 0]), "is no safetensors file"),
        (lambda header: header["a"].update(data_offsets=[24, 0]), "is no safetensors file"),
        (lambda header: header["a"].update(data_offsets=header["a"]["data_offsets"] * 2), "is no safetensors file"),
        (lambda header: header["a"].update(dtype=["F32"]), "is no safetensors file"),
        (lambda header: header["a"].pop("shape"), "is no safetensors file"),
        (lambda header: header.update(again=header["a"]), "does not begin where the tensor before it ends"),
        (lambda header: header.pop("d"), "(does not begin where|bytes where its header says)"),
        (lambda header: header.update(f="text"), "is no safetensors file"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, how: Callable[[Any], None], reason: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(changed(how))
    with pytest.raises(InputError, match=reason):
        read_header(path)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[]", b"1", b"null", b'"text"', b"\xff\xfe", b"{}"])
def test_a_header_that_is_no_table_of_tensors_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(content)) + content + DATA)
    with pytest.raises(InputError):
        read_header(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 100) | st.floats() | st.sampled_from(["F32", "F16", "I64", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "a", "__metadata__"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=json_values | st.dictionaries(st.sampled_from("abcd"), json_values).map(lambda more: HEADER | more))
def test_whatever_a_header_says_is_true_of_the_file_or_refused(tmp_path: Path, header: Any) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_of(header))
    try:
        tensors = read_header(path).tensors
    except InputError:
        return
    for entry in tensors.values():
        begin, end = entry["data_offsets"]
        assert 0 <= begin <= end <= len(DATA)


def test_a_file_with_a_byte_changed_is_refused_or_read_within_its_bounds(tmp_path: Path) -> None:
    path, chance = tmp_path / "model.safetensors", random.Random(0)
    for _ in range(300):
        content = bytearray(CONTENT)
        content[chance.randrange(len(CONTENT) - len(DATA))] = chance.randrange(256)
        path.write_bytes(content)
        try:
            header = read_header(path)
        except InputError:
            continue
        assert all(header.data_start + entry["data_offsets"][1] <= len(content) for entry in header.tensors.values())
