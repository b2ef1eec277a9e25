"""Check 1: the file itself. Well-formed, every expected tensor once and none besides, shapes right, no NaN and no infinity.

It runs before llama.cpp opens the file, which may end the process over a file that lies. What it finds wrong ends the checks of
that file: nothing further can be trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from convert.certificate import Check, failed
from convert.checks.gguf_file import TENSOR_TYPES, Header, Malformed, Tensor, read_header
from convert.checks.reference import ROPE_FACTORS, Expected
from medllama import progress

CHUNK_BYTES = 1 << 25
REASON = "llama.cpp reads what the file says of itself without asking twice"

# Where a block keeps its 16-bit scales, in bytes from its beginning (ggml-common.h). IQ1_M spreads its scale over four words,
# MXFP4 keeps an exponent whose 255 stands for NaN.
SCALE_OFFSETS = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82), "Q3_K": (108,),
    "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ2_XXS": (0,), "IQ2_XS": (0,), "IQ3_XXS": (0,), "IQ1_S": (0,),
    "IQ4_NL": (0,), "IQ3_S": (0,), "IQ2_S": (0,), "IQ4_XS": (0,), "TQ1_0": (52,), "TQ2_0": (64,),
    "Q1_0": (0,), "Q2_0": (0,),
}  # fmt: skip
BLOCK_BYTES = {name: size for name, _, size in TENSOR_TYPES.values()}


def check_file(path: Path, expected: Mapping[str, Expected], has_rope_factors: bool) -> tuple[Check, Header | None]:
    """The check, and the header where the file is well-formed."""
    try:
        header = read_header(path)
    except Malformed as fault:
        return _fault(f"it is not a well-formed GGUF: {fault}", path.name), None
    if (split := header.metadata.get("split.count", 0)) not in (0, 1):
        return _fault(
            f"it is one of {split} parts; join them with llama.cpp's llama-gguf-split --merge", path.name
        ), None
    if (wrong := _names_and_shapes(header, expected, has_rope_factors)) is not None:
        return wrong, header
    for done, tensor in enumerate(header.tensors.values()):
        progress.update(f"{path.name}: reading", done, len(header.tensors))
        if (row := first_not_finite(header, tensor)) is not None:
            return _fault(f"{tensor.name} holds NaN or infinity: an overflow in a 16-bit type, or damage",
                          f"{tensor.name}, row {row}"), header  # fmt: skip
    return Check("file", "pass", f"{len(header.tensors)} tensors, all whole, finite and expected", None, REASON), header


def _names_and_shapes(header: Header, expected: Mapping[str, Expected], has_rope_factors: bool) -> Check | None:
    found = header.tensors
    missing = [name for name, entry in expected.items() if name not in found and not entry.is_optional]
    if has_rope_factors and ROPE_FACTORS not in found:
        missing.append(ROPE_FACTORS)
    if missing:
        hint = " (this model's head is not its embedding)" if missing == ["output.weight"] else ""
        return _fault(f"{len(missing)} tensors are missing{hint}", ", ".join(missing[:4]))
    if extra := [name for name in found if name not in expected and name != ROPE_FACTORS]:
        return _fault(f"{len(extra)} tensors are there that this model does not have", ", ".join(extra[:4]))
    for name, entry in expected.items():
        if name in found and found[name].shape != entry.shape:
            cause = f"{name} has the shape {found[name].shape}, the model's is {entry.shape}"
            return _fault(cause + _shape_hint(found[name], entry), name)
        if name in found and len(entry.shape) == 1 and found[name].type != "F32":
            return _fault(f"{name} is {found[name].type}, and llama.cpp computes with vectors in F32 only", name)
    return None


def _shape_hint(tensor: Tensor, expected: Expected) -> str:
    if tensor.shape == expected.shape[::-1]:
        return ": it is transposed"
    if tensor.name in ("token_embd.weight", "output.weight"):
        return ": the vocabulary was cut, or grown without the weights"
    return ""


def first_not_finite(header: Header, tensor: Tensor) -> int | None:
    """The first row of a tensor that holds NaN or an infinity, or None."""
    step = max(1, CHUNK_BYTES // tensor.row_bytes)
    for start in range(0, tensor.rows, step):
        bad = _not_finite(header.read_rows(tensor, start, min(start + step, tensor.rows)), tensor.type)
        if bad.any():
            return start + int(np.argmax(bad))
    return None


def _not_finite(raw: np.ndarray, type_name: str) -> np.ndarray:
    """(rows, row_bytes) uint8 -> (rows,) bool. In the 16-bit types all bits of the exponent are set; quantized, the scales'."""
    if type_name == "F32":
        return ~np.isfinite(raw.view("<f4")).all(axis=1)
    if type_name in ("F16", "BF16"):
        exponent = 0x7C00 if type_name == "F16" else 0x7F80
        return ((raw.view("<u2") & exponent) == exponent).any(axis=1)
    if type_name not in SCALE_OFFSETS:
        return np.zeros(raw.shape[0], dtype=bool)  # IQ1_M and MXFP4 are read as numbers by the tensors check
    blocks = raw.reshape(raw.shape[0], -1, BLOCK_BYTES[type_name])
    bad = np.zeros(raw.shape[0], dtype=bool)
    for offset in SCALE_OFFSETS[type_name]:
        high = blocks[:, :, offset + 1]
        bad |= ((high & 0x7C) == 0x7C).any(axis=1)
    return bad


def _fault(cause: str, where: str) -> Check:
    return failed("file", cause, where=where, figure="broken", bound="whole", reason=REASON)
