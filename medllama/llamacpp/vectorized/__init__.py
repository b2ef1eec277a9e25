"""llama.cpp's quantizers in vectors: the bytes of `ggml_quantize_chunk` in a fraction of its time.

    blocks = quantize_rows(values, "Q4_K")                        # (rows, columns) float32 -> (rows, bytes) uint8

ggml searches the best scale of one block after the other, in code for any processor; that takes nearly all the time of a
conversion. blocks.c does the same for 8 or 16 blocks at once, on processors with AVX2 or AVX-512, in Q4_K, Q5_K, Q6_K and
Q8_0: all that the usual files are made of. Whether ggml was compiled to the same arithmetic is tried out before a type is
first quantized so; where one byte differs, in other types, and where nothing was compiled, ggml quantizes. `medllama verify`
quantizes with ggml alone, so that its certificate does not rest on this.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util

import numpy
import numpy.typing

from medllama.llamacpp import LlamaCppError, Logits, quantizer

TYPES = ("Q4_K", "Q5_K", "Q6_K", "Q8_0")
WIDTHS = ("avx512", "avx2")  # the widest that the processor has is used
TRIED_ROWS, TRIED_COLUMNS = 65, 768  # an odd number of superblocks: the last has no other beside it


def quantize_rows(
    values: Logits, type_name: str, importance: numpy.typing.ArrayLike | None = None
) -> numpy.typing.NDArray[numpy.uint8]:
    """As `medllama.llamacpp.quantizer.quantize_rows`, to the byte."""
    return quantizer.quantize_rows(values, type_name, importance, chunk=proven_chunk(type_name))


@functools.cache
def proven_chunk(type_name: str) -> quantizer.QuantizeChunk | None:
    """The vectorized function for a type, or None where there is none here whose bytes are those of ggml."""
    library = compiled()
    chunk = chunk_of(library, type_name) if library and type_name in TYPES else None
    return chunk if chunk and _is_ggml(chunk, type_name) else None


def compiled() -> ctypes.CDLL | None:
    """What was compiled for the widest vectors of this processor."""
    return next(filter(None, map(compiled_for, WIDTHS)), None)


@functools.cache
def compiled_for(width: str) -> ctypes.CDLL | None:
    """What was compiled for one of WIDTHS, where it loads and this processor runs it."""
    found = importlib.util.find_spec(f"{__name__}._{width}")
    if found is None or found.origin is None:
        return None
    try:
        library = ctypes.CDLL(found.origin)
    except OSError:  # damaged, or of another system
        return None
    return library if library.is_supported() else None


def chunk_of(library: ctypes.CDLL, type_name: str) -> quantizer.QuantizeChunk:
    """The function for a type, of a library made from blocks.c; it releases the GIL."""
    function = library[f"quantize_{type_name}"]
    function.restype = None
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    return function


def _is_ggml(chunk: quantizer.QuantizeChunk, type_name: str) -> bool:
    for importance in (None, *_weights()):
        try:
            own = quantizer.quantize_rows(_hard_values(), type_name, importance, chunk=chunk)
        except LlamaCppError:  # no valid blocks
            return False
        if not numpy.array_equal(own, quantizer.quantize_rows(_hard_values(), type_name, importance)):
            return False
    return True


@functools.cache
def _hard_values() -> Logits:
    """(TRIED_ROWS, TRIED_COLUMNS) float32 of many magnitudes, with blocks that are constant, one-sided, sparse, empty and full of
    halves: sums of any other order or rounding show in some of them."""
    random = numpy.random.default_rng(0)
    values = random.standard_normal((TRIED_ROWS, TRIED_COLUMNS), dtype=numpy.float32)
    values *= numpy.float32(10) ** random.integers(-6, 2, (TRIED_ROWS, 1)).astype(numpy.float32)
    values[::6] = numpy.abs(values[::6])
    values[1::6, :256] *= random.random((1, 256)) < 0.1
    values[2::6, 32:96] = values[2::6, :1]
    values[3::12] = 0
    values[4::6] = random.integers(-127, 128, values[4::6].shape) / 2
    values[5::6].view(numpy.uint32)[:] &= 0xFFFF0000  # bfloat16
    return values


@functools.cache
def _weights() -> Logits:
    """(2, TRIED_COLUMNS) float32: of several magnitudes and many zero, and of both signs, which take the rarest ways."""
    random = numpy.random.default_rng(1)
    some = random.random(TRIED_COLUMNS) ** 4 * (random.random(TRIED_COLUMNS) < 0.5)
    return numpy.stack([some, random.standard_normal(TRIED_COLUMNS)]).astype(numpy.float32)
