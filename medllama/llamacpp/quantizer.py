"""llama.cpp's quantizer by parts: which type it gives each tensor, and rows of values in that type.

    types = tensor_types(skeleton, 15)                            # Q4_K_M: {"output.weight": "Q6_K", ...}
    blocks = quantize_rows(values, types["output.weight"])        # (rows, columns) float32 -> (rows, bytes) uint8

A file put together of these is the file that `llama-quantize` writes, to the byte; `quantize` is that program's own function.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy
import numpy.typing

from medllama.cores import usable_cores
from medllama.errors import UnsupportedError
from medllama.llamacpp import LlamaCppError, Logits, captured_log, forget_log, library, reason

# Addresses of the values and of the blocks, rows, columns, the address of the columns' weights.
QuantizeChunk = Callable[[int, int, int, int, int | None], object]
COMPUTED_IN_ONLY = ("Q8_1", "Q8_K")  # what ggml turns activations into
# llama.cpp's dry run tells each tensor's type in its log and nowhere else.
TOLD_TYPE = re.compile(
    r"^\[ *\d+/ *\d+\] +(?P<name>\S+) +- \[[^\]]*\], type = +(?P<old>\w+), size = [^(\n]*(?:\((?P<new>\w+)\))?$",
    re.MULTILINE,
)


def quantize(
    source: Path,
    target: Path,
    file_type: int,
    *,
    importance: Mapping[str, Logits] | None = None,
    threads: int | None = None,
) -> None:
    """Quantize a GGUF with llama.cpp's own mixture for `file_type` (a LLAMA_FTYPE number): the bytes of `llama-quantize`.

    `importance` gives a weight to each column of a tensor, (columns,) float32. `target` is overwritten; on failure it is
    removed and LlamaCppError raised.
    """
    parameters = library().llama_model_quantize_default_params()
    parameters.ftype = file_type
    parameters.nthread = threads or usable_cores()
    kept = _give_importance(parameters, importance) if importance else None  # noqa: F841  C reads it until the end
    try:
        _quantize(source, target, parameters)
    except LlamaCppError:
        with contextlib.suppress(FileNotFoundError):
            target.unlink()
        raise


def tensor_types(skeleton: Path, file_type: int, *, has_importance: bool = False) -> dict[str, str]:
    """The type of each tensor in llama.cpp's mixture for `file_type`, in the order of its files ("Q4_K", "F32", ...).

    `skeleton` is the GGUF to be quantized, or one of the same architecture whose tensors have the same columns.
    Raises UnsupportedError where the mixture needs an importance matrix and `has_importance` is false.
    """
    c = library()
    parameters = c.llama_model_quantize_default_params()
    parameters.ftype = file_type
    parameters.dry_run = True
    kept = _give_importance(parameters, {}) if has_importance else None  # noqa: F841  C reads it
    with captured_log() as log:
        _quantize(skeleton, skeleton.with_name("unused"), parameters)
    told = "".join(log)
    if "will require an imatrix" in told:
        raise UnsupportedError("this quantization needs an importance matrix")
    types = {match["name"]: (match["new"] or match["old"]).upper() for match in TOLD_TYPE.finditer(told)}
    if not types:
        raise LlamaCppError(f"llama.cpp did not tell the types of {skeleton}: {told[-300:]}")
    return types


def _give_importance(parameters: Any, importance: Mapping[str, Logits]) -> Any:
    """Point the parameters at named weights; the caller keeps what is returned for as long as they are used."""
    entries = (library().llama_model_imatrix_data * (len(importance) + 1))()  # a nameless one ends the list
    arrays = [numpy.ascontiguousarray(weights, dtype=numpy.float32) for weights in importance.values()]
    for entry, name, weights in zip(entries, importance, arrays, strict=False):
        entry.name, entry.size = name.encode(), weights.size
        entry.data = weights.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    parameters.imatrix = ctypes.cast(entries, type(parameters.imatrix))
    return entries, arrays


def _quantize(source: Path, target: Path, parameters: Any) -> None:
    forget_log()
    status = library().llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters))
    if status != 0:
        raise LlamaCppError(f"llama.cpp could not quantize {source}: {reason()}")


def row_bytes(type_name: str, columns: int) -> int:
    """The bytes of one row of `columns` values in a ggml type ("F16", "Q4_K")."""
    return int(ggml_base().ggml_row_size(type_numbers()[type_name], columns))


@functools.cache
def type_numbers() -> dict[str, int]:
    """ggml's number of each of its types, by name: gguf-py does not know them all."""
    names = (ggml_base().ggml_type_name(number) for number in range(library().GGML_TYPE_COUNT))
    return {name.decode().upper(): number for number, name in enumerate(names) if name}


def quantize_rows(
    values: Logits,
    type_name: str,
    importance: numpy.typing.ArrayLike | None = None,
    *,
    chunk: QuantizeChunk | None = None,
) -> numpy.typing.NDArray[numpy.uint8]:
    """`values` (rows, columns) float32 in ggml's block format `type_name` ("Q4_K"): (rows, bytes per row) uint8.

    The same bytes as `llama_model_quantize`; `importance` (columns,) weights the columns. `chunk` does the work in place of
    ggml's own `ggml_quantize_chunk` (medllama.llamacpp.vectorized). The library releases the GIL.
    Raises UnsupportedError for what would end the process inside ggml: a format that it only computes in, rows that do
    not divide into blocks, or no importance where the format needs it; LlamaCppError where a block's scale overflows.
    """
    base = ggml_base()
    number = type_numbers().get(type_name)
    if number is None or not base.ggml_is_quantized(number) or type_name in COMPUTED_IN_ONLY:
        raise UnsupportedError(f"ggml quantizes nothing to {type_name}")
    values = numpy.ascontiguousarray(values, dtype=numpy.float32)
    rows, columns = values.shape
    if columns % (block := base.ggml_blck_size(number)) or not columns:
        raise UnsupportedError(f"rows of {columns} values do not divide into {type_name}'s blocks of {block}")
    if importance is not None:
        importance = numpy.ascontiguousarray(importance, dtype=numpy.float32)
        assert importance.shape == (columns,), "one weight per column"
    elif base.ggml_quantize_requires_imatrix(number):
        raise UnsupportedError(f"{type_name} needs an importance matrix")
    out = numpy.empty((rows, base.ggml_row_size(number, columns)), dtype=numpy.uint8)
    weights = None if importance is None else importance.ctypes.data
    if chunk is not None:
        chunk(values.ctypes.data, out.ctypes.data, rows, columns, weights)
    else:
        written = base.ggml_quantize_chunk(number, values.ctypes.data, out.ctypes.data, 0, rows, columns, weights)
        if written != out.nbytes:
            raise LlamaCppError(f"ggml wrote {written} bytes of {type_name} where {out.nbytes} were expected")
    if not base.ggml_validate_row_data(number, out.ctypes.data, out.nbytes):
        raise LlamaCppError(
            f"values as large as {float(numpy.abs(values).max()):.6g} overflow in {type_name}", hint="use another type"
        )
    return out


def round_to_float16(values: Logits) -> numpy.typing.NDArray[numpy.float16]:
    """float32 values rounded once to float16, to nearest even, ten times as fast as NumPy; infinite where they overflow."""
    out = numpy.empty(values.shape, dtype=numpy.float16)
    values = numpy.ascontiguousarray(values, dtype=numpy.float32)
    _ggml_cpu().ggml_cpu_fp32_to_fp16(values.ctypes.data, out.ctypes.data, out.size)
    return out


def float16_to_float32(values: numpy.typing.NDArray[numpy.float16]) -> Logits:
    """float16 values as float32, exactly, four times as fast as NumPy."""
    out = numpy.empty(values.shape, dtype=numpy.float32)
    values = numpy.ascontiguousarray(values)
    _ggml_cpu().ggml_cpu_fp16_to_fp32(values.ctypes.data, out.ctypes.data, out.size)
    return out


@functools.cache
def ggml_base() -> Any:
    """`libggml-base`: tensors, and the quantizing of rows."""
    base = _beside_llama("ggml-base")
    base.ggml_quantize_chunk.restype = ctypes.c_size_t
    base.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    ]  # fmt: skip
    base.ggml_row_size.restype = ctypes.c_size_t
    base.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
    base.ggml_blck_size.restype = ctypes.c_int64
    for named in (base.ggml_type_name, base.ggml_op_name, base.ggml_get_name):
        named.restype = ctypes.c_char_p
    base.ggml_get_name.argtypes = [ctypes.c_void_p]
    base.ggml_validate_row_data.restype = ctypes.c_bool
    base.ggml_validate_row_data.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
    for question in (base.ggml_is_quantized, base.ggml_quantize_requires_imatrix):
        question.restype = ctypes.c_bool
    return base


@functools.cache
def _ggml_cpu() -> Any:
    """`libggml-cpu`, which converts numbers with the processor's own instructions where it has them."""
    cpu = _beside_llama("ggml-cpu")
    cpu.ggml_cpu_init()
    for function in (cpu.ggml_cpu_fp32_to_fp16, cpu.ggml_cpu_fp16_to_fp32):
        function.restype = None
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    return cpu


def _beside_llama(name: str) -> ctypes.CDLL:
    """A library that ships beside libllama."""
    folder = Path(library().__file__).parent / "lib"
    names = sorted(folder.glob(f"lib{name}.*")) or sorted(folder.glob(f"{name}.*"))
    if not names:
        raise LlamaCppError(f"{folder} has no lib{name}", hint="reinstall llama-cpp-python")
    return ctypes.CDLL(str(names[0]))
