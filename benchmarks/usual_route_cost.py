"""Time, peak memory and bytes written on the way from a base and an adapter to Q4_K_M, on the usual route and in medllama.

    python -m benchmarks.usual_route --shape 1.1b

Each step is a process of its own, as a person would call it: its time includes starting Python. A step tells its peak memory (VmHWM,
which counts mapped file pages) and what it wrote (wchar: bytes given to write(), temporary files included), as Linux counts them.
The model is `benchmarks.random_model`'s.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.random_model import make_adapter, make_base
from convert.config import FILE_TYPES
from medllama.cli import main as medllama
from medllama.errors import MedllamaError
from medllama.llamacpp import quantize

# Runs one step and tells what it took.
PROGRAM = """
import json, sys
from pathlib import Path
report, step, *arguments = sys.argv[1:]
if step == "official":
    import runpy
    script, sys.argv[1:] = arguments[0], arguments[1:]
    sys.argv[0] = script
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")
else:
    from benchmarks import usual_route_cost
    getattr(usual_route_cost, step)(*arguments)
def counter(file, name):
    lines = Path("/proc/self", file).read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])
Path(report).write_text(json.dumps({
    "peak_rss_bytes": counter("status", "VmHWM:") * 1024, "written_bytes": counter("io", "wchar:"),
}))
"""


def measure_cost(shape: str, converter: Path, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The steps of both routes at this shape, each with its seconds, peak_rss_bytes and written_bytes."""
    base, merged = make_base(folder / "base", shape), folder / "merged"
    adapter = make_adapter(folder / "adapter", base, shape)
    half, quantized = folder / "usual-F16.gguf", folder / "usual-Q4_K_M.gguf"
    script = converter / "convert_hf_to_gguf.py"

    def step(*arguments: object) -> dict[str, Any]:
        return run_step(folder / "report.json", *map(str, arguments))

    usual = [
        {"step": "merge_and_unload, save_pretrained"} | step("merge_and_save", base, adapter, merged),
        {"step": "convert_hf_to_gguf.py"} | step("official", script, merged, "--outfile", half, "--outtype", "f16"),
        {"step": "llama-quantize"} | step("quantize_to_q4_k_m", half, quantized),
    ]
    ours = [{"step": "medllama convert"} | step("convert_with_medllama", base, adapter, folder / "gguf")]
    return {"usual route": usual, "medllama": ours}


def run_step(report: Path, *arguments: str) -> dict[str, Any]:
    """Run one step in a process of its own."""
    started = time.perf_counter()
    finished = subprocess.run([sys.executable, "-c", PROGRAM, str(report), *arguments], capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if finished.returncode != 0:
        raise MedllamaError(f"{arguments[0]} failed: {finished.stderr[-2000:]}")
    return {"seconds": seconds, **json.loads(report.read_text())}


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


def convert_with_medllama(base: str, adapter: str, folder: str) -> None:
    status = medllama(
        ["convert", "--base-model", base, "--adapter", adapter, "--types", "Q4_K_M", "--output-dir", folder]
    )
    assert status == 0, f"exit status {status}"
