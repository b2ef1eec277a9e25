"""llama.cpp's quantizer by parts: its types, its blocks, its roundings; and nothing that ends the process."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.config import FILE_TYPES
from medllama.errors import UnsupportedError
from medllama.llamacpp import LlamaCppError
from medllama.llamacpp.quantizer import (
    float16_to_float32,
    quantize,
    quantize_rows,
    round_to_float16,
)


def test_quantizing_what_is_no_gguf_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "in.gguf").write_bytes(b"no GGUF")
    with pytest.raises(LlamaCppError, match="could not quantize"):
        quantize(tmp_path / "in.gguf", tmp_path / "out.gguf", FILE_TYPES["Q8_0"])
    assert not (tmp_path / "out.gguf").exists()


# gguf-py quantizes to these itself, by arithmetic of its own that llama.cpp's reference code defines.
@pytest.mark.parametrize("type_name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0"])
def test_rows_are_quantized_as_gguf_py_does_it(type_name: str) -> None:
    values = numpy.random.default_rng(0).standard_normal((8, 512)).astype(numpy.float32)
    values[3] = 0
    expected = gguf.quants.quantize(values, gguf.GGMLQuantizationType[type_name])
    assert numpy.array_equal(quantize_rows(values, type_name), expected)


@pytest.mark.parametrize("type_name", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"])
def test_rows_come_back_about_as_near_as_their_bits_allow(type_name: str) -> None:
    """What gguf-py can only read: the error of a normal row is about 2^-bits of its size."""
    values = numpy.random.default_rng(1).standard_normal((8, 512)).astype(numpy.float32)
    kind = gguf.GGMLQuantizationType[type_name]
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    raw = quantize_rows(values, type_name)
    error = numpy.abs(gguf.quants.dequantize(raw, kind) - values).mean()
    assert raw.shape == (8, 512 // block * block_bytes)
    assert 0 < error < 2.0 ** -(8 * block_bytes / block - 1)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_importance_may_be_of_any_float_type(seed: int) -> None:
    random = numpy.random.default_rng(seed)
    values = random.standard_normal((2, 256)).astype(numpy.float32)
    weights = random.random(256)
    assert weights.dtype == numpy.float64
    single = numpy.ascontiguousarray(weights, dtype=numpy.float32)
    assert numpy.array_equal(quantize_rows(values, "Q4_K", weights), quantize_rows(values, "Q4_K", single))
    assert not numpy.array_equal(quantize_rows(values, "Q4_K", single), quantize_rows(values, "Q4_K"))


@pytest.mark.parametrize(
    ("columns", "type_name", "reason"),
    [
        (100, "Q4_0", "rows of 100 values do not divide into Q4_0's blocks of 32"),
        (128, "Q4_K", "rows of 128 values do not divide into Q4_K's blocks of 256"),
        (256, "IQ2_XXS", "IQ2_XXS needs an importance matrix"),
        (256, "Q8_K", "ggml quantizes nothing to Q8_K"),
        (256, "F32", "ggml quantizes nothing to F32"),
        (256, "Q9", "ggml quantizes nothing to Q9"),
    ],
)
def test_what_would_end_the_process_inside_ggml_is_refused(columns: int, type_name: str, reason: str) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        quantize_rows(numpy.zeros((2, columns), dtype=numpy.float32), type_name)


def test_a_scale_that_overflows_is_refused() -> None:
    values = numpy.full((1, 256), 1e7, dtype=numpy.float32)
    with pytest.raises(LlamaCppError, match=r"as large as 1e\+07 overflow in Q8_0"):
        quantize_rows(values, "Q8_0")


def test_float16_is_rounded_as_numpy_rounds_it() -> None:
    """Every half-precision number, what lies between two of them, and a hair beside it."""
    halves = numpy.arange(0x7C00, dtype=numpy.uint16).view(numpy.float16).astype(numpy.float32)
    between = (halves[1:] + halves[:-1]) / 2
    values = numpy.concatenate(
        [halves, between, numpy.nextafter(between, 0), numpy.nextafter(between, 1e9), [65519, 65520, 1e9]]
    )
    for signed in (values, -values):
        signed = signed.astype(numpy.float32)
        with numpy.errstate(over="ignore"):
            expected = signed.astype(numpy.float16)
        assert numpy.array_equal(round_to_float16(signed).view(numpy.uint16), expected.view(numpy.uint16))


def test_float16_is_read_as_numpy_reads_it() -> None:
    halves = (
        numpy.concatenate([numpy.arange(0x7C01), 0x8000 + numpy.arange(0x7C01)])
        .astype(numpy.uint16)
        .view(numpy.float16)
    )
    assert numpy.array_equal(
        float16_to_float32(halves).view(numpy.uint32), halves.astype(numpy.float32).view(numpy.uint32)
    )


def test_what_does_not_lie_in_one_piece_is_rounded_too() -> None:
    values = numpy.random.default_rng(0).standard_normal((6, 8)).astype(numpy.float32)
    assert numpy.array_equal(round_to_float16(values.T), values.T.astype(numpy.float16))
    assert numpy.array_equal(float16_to_float32(values.astype(numpy.float16)[::2]), values.astype(numpy.float16)[::2])
