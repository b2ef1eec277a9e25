"""Time, peak memory and bytes written on the way from a base and an adapter to Q4_K_M, on the usual route and in medllama.

    python -m benchmarks.usual_route --shape 1.1b

Each step is a process of its own, as a person would call it. The model is `benchmarks.random_model`'s.
"""

from __future__ import annotations

import runpy
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import Cost, call, medllama
from benchmarks.random_model import make_adapter, make_base
from convert.config import FILE_TYPES
from medllama.llamacpp.quantizer import quantize


def measure_cost(shape: str, converter: Path, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The steps of both routes at this shape, each with its seconds, peak_memory_bytes and written_bytes."""
    base = make_base(folder / "base", shape)
    adapter = make_adapter(folder / "adapter", base, shape)
    usual = [{"step": name} | asdict(cost) for name, cost in usual_steps(base, adapter, converter, folder)]
    model = ("--base-model", base, "--adapter", adapter)
    ours = medllama("convert", *model, "--types", "Q4_K_M", "--output-dir", folder / "gguf")
    return {"usual route": usual, "medllama": [{"step": "medllama convert", **asdict(ours)}]}


def usual_steps(base: Path, adapter: Path, converter: Path, folder: Path) -> list[tuple[str, Cost]]:
    """Walk the usual route from base and adapter to `folder`/usual-Q4_K_M.gguf; the cost of each step."""
    merged, half, quantized = folder / "merged", folder / "usual-F16.gguf", folder / "usual-Q4_K_M.gguf"
    here, script = "benchmarks.usual_route_cost", converter / "convert_hf_to_gguf.py"
    return [
        ("merge_and_unload, save_pretrained", call(f"{here}:merge_and_save", base, adapter, merged)),
        ("convert_hf_to_gguf.py", call(f"{here}:run_script", script, merged, "--outfile", half, "--outtype", "f16")),
        ("llama-quantize", call(f"{here}:quantize_to_q4_k_m", half, quantized)),
    ]


def merge_and_save(base: str, adapter: str, merged: str) -> None:
    """What PEFT's documentation says to do. `tokenizer.model` is copied: only beside it the converter pads a vocabulary."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype="auto"), adapter)
    model.merge_and_unload().save_pretrained(merged)
    AutoTokenizer.from_pretrained(base).save_pretrained(merged)
    shutil.copy(Path(base) / "tokenizer.model", merged)


def quantize_to_q4_k_m(half: str, quantized: str) -> None:
    """llama.cpp's quantizer through the binding: the bytes of llama-quantize."""
    quantize(Path(half), Path(quantized), FILE_TYPES["Q4_K_M"])


def run_script(path: str, *arguments: str) -> None:
    """Run a program of llama.cpp's, which imports what lies beside it."""
    sys.argv = [path, *arguments]
    sys.path.insert(0, str(Path(path).parent))
    runpy.run_path(path, run_name="__main__")
