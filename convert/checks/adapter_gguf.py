"""Check 7: an adapter as a GGUF. Its file, what it adds to each weight, and the base's GGUF with it against the merged model.

llama.cpp adds alpha / rank * B A to a weight, with one alpha for the whole file and the rank of each pair; to the embedding the
same with A transposed (src/llama-adapter.cpp). So what counts is the product, not how it is split.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from convert.certificate import Check, failed
from convert.checks.file import first_not_finite
from convert.checks.gguf_file import Header, Malformed, read_header, to_float32
from convert.checks.reference import Reference, checkpoint_rows

# Relative error of the product in the norm: two roundings of the type, and room for numbers below a 16-bit type's normal range.
PRODUCT_BOUNDS = {"F32": 1e-4, "F16": 1e-2, "BF16": 2e-2}
QUANTIZED_BOUND = 0.2
KNOWN_KEYS = ("adapter.type", "adapter.lora.alpha", "adapter.lora.task_name", "adapter.lora.prompt_prefix")
WHOLE = "llama.cpp reads what the file says of itself without asking twice"
REASON = "two roundings of the adapter's type in the product of A and B"


def check_adapter_file(path: Path) -> tuple[Check, Header | None]:
    """The file itself: well-formed, an adapter of Llama, in pairs, finite."""
    try:
        header = read_header(path)
    except Malformed as fault:
        return _broken(f"it is not a well-formed GGUF: {fault}", where=path.name), None
    wanted = {"general.type": "adapter", "general.architecture": "llama", "adapter.type": "lora"}
    for key, value in wanted.items():
        if header.metadata.get(key) != value:
            return _broken(f"{key} is {header.metadata.get(key)!r}, not {value!r}", where=key), header
    if unknown := [key for key in header.metadata if key.startswith("adapter.") and key not in KNOWN_KEYS]:
        return _broken(f"{unknown[0]} is a key that this adapter does not need", where=unknown[0]), header
    names = {name.rpartition(".lora_")[0] for name in header.tensors}
    for name in sorted(names):
        if f"{name}.lora_a" not in header.tensors or f"{name}.lora_b" not in header.tensors:
            return _broken(f"{name or 'a tensor'} is no pair of lora_a and lora_b", where=name), header
    for tensor in header.tensors.values():
        if len(tensor.shape) != 2 or first_not_finite(header, tensor) is not None:
            return _broken(f"{tensor.name} is no matrix, or holds NaN or infinity", where=tensor.name), header
    return Check("file", "pass", f"{len(names)} pairs, all whole and finite", reason=WHOLE), header


def _broken(cause: str, *, where: str) -> Check:
    return failed("file", cause, where=where, figure="broken", bound="whole", reason=WHOLE)


def check_products(header: Header, reference: Reference) -> Check:
    """What the file adds to each weight, against what the adapter adds."""
    adapter, expected = reference.adapter, reference.weights("merged").expected
    assert adapter is not None, "an adapter's GGUF is verified together with the adapter"
    beyond = [module for module, layer in adapter.layers.items() if layer.magnitude is not None]
    beyond += [*adapter.token_rows, *(name for name in adapter.saved if not _is_the_bases(name, reference))]
    if beyond:
        cause = (
            f"a GGUF adapter cannot hold DoRA or saved modules, and this one has {', '.join(beyond[:3])}: merge instead"
        )
        figure = f"{len(beyond)} parts that the format cannot hold"
        return failed("tensors", cause, where=beyond[0], figure=figure, bound="0", reason=REASON)
    touched = {name for name, entry in expected.items() if entry.parameter.removesuffix(".weight") in adapter.layers}
    found = {name.rpartition(".lora_")[0] for name in header.tensors}
    if touched != found:
        missing, extra = sorted(touched - found), sorted(found - touched)
        where = ", ".join([f"missing {name}" for name in missing[:3]] + [f"extra {name}" for name in extra[:3]])
        cause, figure = (
            "the file does not change the weights that the adapter changes",
            f"{len(touched ^ found)} differ",
        )
        return failed("tensors", cause, where=where, figure=figure, bound="0", reason=REASON)
    worst, worst_name, bound = 0.0, "", PRODUCT_BOUNDS["F32"]
    for name in sorted(touched):
        error, limit = _product_error(header, name, reference)
        if not error / limit <= worst / bound:
            worst, worst_name, bound = error, name, limit
    if worst <= bound:
        return Check("tensors", "pass", worst, bound, REASON, details={"pairs": len(found)})
    cause = "alpha, rank or rsLoRA's root is mistaken, tensors are swapped, or the rows of B are not in RoPE order"
    return Check("tensors", "fail", worst, bound, REASON, cause, worst_name)


def _is_the_bases(parameter: str, reference: Reference) -> bool:
    """PEFT saves a head or an embedding beside its LoRA even where it is unchanged."""
    assert reference.adapter is not None
    stored = reference.stored(parameter)[:].double().numpy()
    return np.array_equal(reference.adapter.saved[parameter], stored)


def _product_error(header: Header, name: str, reference: Reference) -> tuple[float, float]:
    """The relative error of what the file adds to one weight, and its bound; infinite where the shapes do not fit."""
    adapter, entry = reference.adapter, reference.weights("merged").expected[name]
    assert adapter is not None
    layer = adapter.layers[entry.parameter.removesuffix(".weight")]
    a, b = (_matrix(header, f"{name}.lora_{letter}") for letter in "ab")
    limit = max(PRODUCT_BOUNDS.get(header.tensors[f"{name}.lora_{letter}"].type, QUANTIZED_BOUND) for letter in "ab")
    rank = b.shape[1]
    alpha = header.metadata.get("adapter.lora.alpha")
    scale = float(alpha) / rank if isinstance(alpha, int | float) and alpha else 1.0
    left, right = (a, b.T) if name == "token_embd.weight" else (b, a)
    rows, columns = entry.shape
    if left.shape != (rows, rank) or right.shape != (rank, columns):
        return np.inf, limit
    error = norm = 0.0
    step = max(1, (1 << 22) // columns)
    for start in range(0, rows, step):
        chosen = np.arange(start, min(start + step, rows))
        truth = layer.apply(np.zeros((len(chosen), columns)), checkpoint_rows(chosen, entry.head_dim))
        found = scale * (left[chosen] @ right)
        error, norm = error + float(((found - truth) ** 2).sum()), norm + float((truth**2).sum())
    return float(np.sqrt(error / max(norm, 1e-30))), limit


def _matrix(header: Header, name: str) -> np.ndarray:
    tensor = header.tensors[name]
    return to_float32(header.read_rows(tensor), tensor.type).astype(np.float64)


def largest_type(header: Header) -> str | None:
    """The type of an adapter's file: that of most of its tensors."""
    types: list[Any] = [tensor.type for tensor in header.tensors.values()]
    return max(set(types), key=types.count) if types else None
