"""llama.cpp's quantizers in vectors: for any finite values the bytes of ggml, which is used wherever they would not be."""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medllama.llamacpp import LlamaCppError, Logits, quantizer, vectorized

SOURCE = Path(vectorized.__file__).with_name("blocks.c")
FUSED = [
    "-O3",
    "-ffp-contract=fast",
    "-mfma",
    "-fno-math-errno",
    "-Wno-psabi",
    "-mavx2",
    "-DLANES=8",
    "-shared",
    "-fPIC",
]


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    """What a test puts in place of a library is not what others find."""
    for function in (vectorized.compiled_for, vectorized.proven_chunk):
        function.cache_clear()
    yield
    for function in (vectorized.compiled_for, vectorized.proven_chunk):
        function.cache_clear()


@pytest.fixture(params=vectorized.WIDTHS)
def library(request: pytest.FixtureRequest) -> ctypes.CDLL:
    return compiled_for(request.param)


def compiled_for(width: str) -> ctypes.CDLL:
    if (library := vectorized.compiled_for(width)) is not None:
        return library
    is_compiled_here = sysconfig.get_platform() == "linux-x86_64" and shutil.which("cc") is not None
    if is_compiled_here and importlib.util.find_spec(f"medllama.llamacpp.vectorized._{width}") is None:
        pytest.fail("not compiled: python setup.py build_ext --inplace")
    pytest.skip(f"needs Linux, a C compiler and a processor with {width}")


def same_bytes(library: ctypes.CDLL, values: Logits, type_name: str, importance: Logits | None) -> bool:
    """Whether both write the same, or refuse the same."""
    chunk = vectorized.chunk_of(library, type_name)
    return _outcome(values, type_name, importance, chunk) == _outcome(values, type_name, importance, None)


def _outcome(
    values: Logits, type_name: str, importance: Logits | None, chunk: quantizer.QuantizeChunk | None
) -> bytes | str:
    try:
        return quantizer.quantize_rows(values, type_name, importance, chunk=chunk).tobytes()
    except LlamaCppError as error:
        return str(error)


NORMAL = numpy.random.default_rng(0).standard_normal((65, 768), dtype=numpy.float32) * numpy.float32(0.02)
POWERS = numpy.float32(10) ** numpy.arange(-44, 4, dtype=numpy.float32)
Random = numpy.random.Generator
CORPUS: dict[str, Callable[[Random], Logits]] = {
    "normal": lambda random: NORMAL,
    "of a float16 file": lambda random: NORMAL.astype(numpy.float16).astype(numpy.float32),
    "of a bfloat16 file": lambda random: (NORMAL.view(numpy.uint32) & 0xFFFF0000).view(numpy.float32),
    "heavy tails": lambda random: random.standard_cauchy((65, 768)).astype(numpy.float32),
    "one sign": lambda random: numpy.abs(NORMAL) + 1,
    "the other sign": lambda random: -numpy.abs(NORMAL),
    "magnitudes by value": lambda random: NORMAL * random.choice(POWERS, NORMAL.shape),
    "magnitudes by block": lambda random: NORMAL * numpy.repeat(random.choice(POWERS, (65, 24)), 32, axis=1),
    "magnitudes by row": lambda random: NORMAL * random.choice(POWERS, (65, 1)),
    "sparse": lambda random: NORMAL * (random.random(NORMAL.shape) < 0.02),
    "few levels": lambda random: random.integers(-3, 4, NORMAL.shape).astype(numpy.float32),
    "halves": lambda random: random.integers(-127, 128, NORMAL.shape).astype(numpy.float32) / 2,
    # Their 127th part, Q8_0's scale, lies in the middle between two float16 numbers, of which the even one is taken.
    "scales between two": lambda random: numpy.repeat(127 * (1 + numpy.arange(1, 512, 2) / 2048), 32)[None].astype(
        "f4"
    ),
    "constant blocks": lambda random: numpy.repeat(NORMAL[:, :24], 32, axis=1),
    "zeros": lambda random: numpy.zeros((3, 256), numpy.float32),
    "negative zeros": lambda random: -numpy.zeros((1, 256), numpy.float32),
    "too large": lambda random: NORMAL * numpy.float32(1e30),
}
IMPORTANCE: dict[str, Callable[[Random, int], Logits | None]] = {
    "none": lambda random, columns: None,
    "some": lambda random, columns: random.random(columns, dtype=numpy.float32) ** 4,
    "mostly zero": lambda random, columns: (random.random(columns) < 0.3).astype(numpy.float32),
    "all zero": lambda random, columns: numpy.zeros(columns, numpy.float32),
    # Not of any file that is read; scales are negative under them, and all rounds of the fit are needed.
    "of both signs": lambda random, columns: random.standard_normal(columns, dtype=numpy.float32),
}


@pytest.mark.parametrize("type_name", vectorized.TYPES)
@pytest.mark.parametrize("kind", CORPUS)
def test_the_bytes_are_ggmls(library: ctypes.CDLL, kind: str, type_name: str) -> None:
    random = numpy.random.default_rng(1)
    values = CORPUS[kind](random)
    weights = {name: make(random, values.shape[1]) for name, make in IMPORTANCE.items()}
    assert {name for name, given in weights.items() if not same_bytes(library, values, type_name, given)} == set()


@pytest.mark.parametrize("width", vectorized.WIDTHS)
@settings(max_examples=100)
@given(
    bits=st.binary(min_size=1024, max_size=1024),
    exponent=st.integers(0, 255),
    type_name=st.sampled_from(vectorized.TYPES),
    is_weighed=st.booleans(),
)
def test_the_bytes_are_ggmls_whatever_the_bits(
    width: str, bits: bytes, exponent: int, type_name: str, is_weighed: bool
) -> None:
    """Any finite float32, all of about the same magnitude, or of any, in odd numbers of superblocks."""
    raw = numpy.frombuffer(bits, numpy.uint32)
    about = (raw & 0x80FFFFFF) | numpy.uint32(min(exponent, 253) << 23)
    values = numpy.stack([raw.view(numpy.float32), about.view(numpy.float32), about[::-1].view(numpy.float32)])
    values = numpy.where(numpy.isfinite(values), values, numpy.float32(1))
    random = numpy.random.default_rng(exponent)
    importance = numpy.abs(random.standard_normal(256, dtype=numpy.float32)) if is_weighed else None
    for rows in (values[:1], values[1:], values):
        assert same_bytes(compiled_for(width), rows, type_name, importance)


@pytest.mark.parametrize("type_name", vectorized.TYPES)
def test_the_bytes_are_ggmls_where_subnormal_numbers_count_as_zero(library: ctypes.CDLL, type_name: str) -> None:
    """A library compiled with -ffast-math sets this for the whole program. Scales of usual weights are subnormal float16."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot")
    try:
        assert same_bytes(library, NORMAL / 4, type_name, None)
        assert same_bytes(library, NORMAL / 4, type_name, IMPORTANCE["some"](numpy.random.default_rng(1), 768))
    finally:
        torch.set_flush_denormal(False)


def test_conversion_uses_the_vectors_here(library: ctypes.CDLL) -> None:
    """Else a ggml that computes otherwise would make every conversion slow, and nobody would see it."""
    assert {name for name in vectorized.TYPES if vectorized.proven_chunk(name)} == set(vectorized.TYPES)


def test_other_types_are_ggmls() -> None:
    assert vectorized.proven_chunk("Q3_K") is None
    assert numpy.array_equal(vectorized.quantize_rows(NORMAL, "Q3_K"), quantizer.quantize_rows(NORMAL, "Q3_K"))


@pytest.mark.parametrize("type_name", ["Q4_K", "Q5_K", "Q6_K"])
def test_arithmetic_that_rounds_otherwise_is_found_and_ggml_used(
    type_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same source with fused multiply-add: nearly all bytes are the same."""
    compiled_for("avx2")  # skips where there is no such processor
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("no C compiler")
    subprocess.run([compiler, *FUSED, "-o", tmp_path / "fused.so", SOURCE, "-lm"], check=True)
    fused = ctypes.CDLL(str(tmp_path / "fused.so"))
    chunk = vectorized.chunk_of(fused, type_name)
    usual = NORMAL[:8]
    agreeing = quantizer.quantize_rows(usual, type_name, chunk=chunk) == quantizer.quantize_rows(usual, type_name)
    assert agreeing.mean() > 0.9
    monkeypatch.setattr(vectorized, "compiled", lambda: fused)
    assert vectorized.proven_chunk(type_name) is None
    assert numpy.array_equal(vectorized.quantize_rows(NORMAL, type_name), quantizer.quantize_rows(NORMAL, type_name))


def test_without_anything_compiled_ggml_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectorized, "WIDTHS", ())
    assert vectorized.proven_chunk("Q4_K") is None
    assert numpy.array_equal(vectorized.quantize_rows(NORMAL, "Q4_K"), quantizer.quantize_rows(NORMAL, "Q4_K"))


def test_what_cannot_be_loaded_counts_as_not_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "_avx2.so"
    damaged.write_bytes(b"\x7fELF")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: importlib.machinery.ModuleSpec(name, None, origin=str(damaged))
    )
    assert vectorized.compiled() is None


def test_what_writes_no_valid_blocks_is_not_used(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error names values that are too large, which a person's are not."""

    def infinite_scales(values: int, out: int, rows: int, columns: int, weights: int | None) -> None:
        ctypes.memset(out, 0x7C, rows * quantizer.row_bytes("Q4_K", columns))

    monkeypatch.setattr(vectorized, "chunk_of", lambda library, type_name: infinite_scales)
    assert vectorized.proven_chunk("Q4_K") is None


@pytest.mark.parametrize("columns", [128, 0])
def test_rows_that_are_no_blocks_are_refused_as_by_ggml(columns: int) -> None:
    said = f"rows of {columns} values do not divide into Q4_K's blocks of 256"
    with pytest.raises(quantizer.UnsupportedError, match=said):
        vectorized.quantize_rows(numpy.zeros((2, columns), dtype=numpy.float32), "Q4_K")
