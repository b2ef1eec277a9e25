"""A LoRA adapter as a GGUF of its own, which llama.cpp (and so Ollama's ADAPTER) applies to the base's GGUF.

    medllama convert --base-model DIR --adapter DIR --adapter-only --types F16 --output-dir OUT

The file holds A and B of each module, the rows of B interleaved where the base's rows are. It has one alpha, and llama.cpp's
scale is alpha / rank; where PEFT's scale is another (rsLoRA, alpha by pattern), the difference goes into B. What the format
cannot hold (DoRA, saved modules, trained tokens) is refused: merge instead.

Source followed: llama.cpp's src/llama-adapter.cpp.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy
import numpy.typing

from convert.adapter import Adapter, LoraModule
from convert.architecture import Shape
from convert.config import FILE_TYPES
from convert.metadata import Provenance, write_origin
from convert.tensors import Target, to_llama_cpp_layout
from convert.weights import RAW_TYPES, StoredTensor, round_to
from medllama.errors import UnsupportedError

Array = numpy.typing.NDArray[Any]


@dataclass(frozen=True)
class Pair:
    """A and B of one tensor of the GGUF, float32, as llama.cpp wants them."""

    name: str
    a: Array
    b: Array


def check_fits_format(adapter: Adapter, stored: dict[str, StoredTensor]) -> None:
    """Raise UnsupportedError for an adapter that is more than A and B. PEFT saves the embedding and the head beside a LoRA on
    them even where they are the base's, `stored`: those need no place."""
    saved = [name for name, tensor in sorted(adapter.saved.items()) if not _is_stored(tensor, stored.get(name))]
    reasons = []
    if any(module.magnitude is not None for module in adapter.modules.values()):
        reasons.append("DoRA's magnitudes")
    if saved:
        reasons.append(f"saved modules ({', '.join(saved[:3])})")
    if adapter.trained_tokens:
        reasons.append("trained tokens")
    if reasons:
        raise UnsupportedError(
            f"{adapter.path} has {' and '.join(reasons)}, which an adapter GGUF cannot hold",
            hint="merge instead: the same command without --adapter-only",
        )


def _is_stored(tensor: StoredTensor, base: StoredTensor | None) -> bool:
    return base is not None and numpy.array_equal(tensor.float32(), base.float32())


def adapter_bytes(adapter: Adapter, file_type: str) -> int:
    """The size of the tensors in the file."""
    values = sum(math.prod(part.shape) for module in adapter.modules.values() for part in (module.a, module.b))
    return values * (4 if file_type == "F32" else 2)


def write_adapter_gguf(
    adapter: Adapter, targets: list[Target], shape: Any, provenance: Provenance, path: Path, file_type: str
) -> None:
    """Write the adapter's A and B in `file_type` (F32, F16 or BF16)."""
    alpha = float(adapter.config["lora_alpha"])
    by_source = {target.source.removesuffix(".weight"): target for target in targets}
    pairs = [_pair(module, by_source[name], shape, alpha) for name, module in adapter.modules.items()]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    write_origin(writer, provenance)
    writer.add_file_type(FILE_TYPES[file_type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for pair in pairs:
        for suffix, values in (("lora_a", pair.a), ("lora_b", pair.b)):
            rounded = round_to(numpy.ascontiguousarray(values), file_type, f"{pair.name}.{suffix}")
            writer.add_tensor(f"{pair.name}.{suffix}", rounded, raw_shape=values.shape, raw_dtype=RAW_TYPES[file_type])
    with contextlib.closing(writer):
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()


def _pair(module: LoraModule, target: Target, shape: Shape, alpha: float) -> Pair:
    a, b = module.a.float32(), module.b.float32()
    if (correction := module.scale / (alpha / a.shape[0])) != 1.0:
        b = b * numpy.float32(correction)
    if module.is_embedding:
        return Pair(target.name, a.T, b)
    return Pair(target.name, a, to_llama_cpp_layout(b, target.source, shape))
