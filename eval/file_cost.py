"""What one GGUF costs to run on this machine, measured in a process of its own so that nothing else counts: one JSON object.

    python -m eval.file_cost FILE.gguf --threads 2

Seconds to load, prompt tokens a second (512 at a time, as llama-bench's pp512; fewer where the context is shorter), generated
tokens a second (one sequence), and the peak resident memory, in which the mapped file counts. llama.cpp's default settings, best of
three.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from medllama.errors import MedllamaError
from medllama.llamacpp import Context, Model
from medllama.rundir import peak_memory_bytes

PROMPT_TOKENS, GENERATED_TOKENS, TIMES = 512, 16, 3


def file_cost(path: Path, threads: int | None) -> dict[str, Any]:
    """Measure a file in a new process."""
    command = [
        sys.executable,
        "-m",
        "eval.file_cost",
        str(path),
        *([] if threads is None else ["--threads", str(threads)]),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).resolve().parent.parent
    )
    if done.returncode:
        raise MedllamaError(
            f"{path} could not be timed: {done.stderr.strip()[-300:]}", hint="medllama verify names the fault"
        )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(path: Path, threads: int | None) -> dict[str, Any]:
    """Measure a file in this process."""
    started = time.perf_counter()
    with Model(path, threads=threads) as model:
        load = time.perf_counter() - started
        prompt = min(PROMPT_TOKENS, model.n_ctx_train - GENERATED_TOKENS)
        with Context(model, context_tokens=prompt + GENERATED_TOKENS, exact=False) as context:
            ids = [3 + number % min(200, model.n_vocab - 3) for number in range(prompt)]
            prompt_seconds, generation_seconds = [], []
            for _ in range(TIMES):
                context.clear()
                started = time.perf_counter()
                list(context.decode(ids, start=0, every=False))
                prompt_seconds.append(time.perf_counter() - started)
                started = time.perf_counter()
                for number in range(GENERATED_TOKENS):
                    list(context.decode([ids[number]], start=prompt + number))
                generation_seconds.append(time.perf_counter() - started)
        return {
            "load_seconds": load,
            "prompt_tokens_per_second": prompt / min(prompt_seconds),
            "generated_tokens_per_second": GENERATED_TOKENS / min(generation_seconds),
            "peak_memory_bytes": peak_memory_bytes(),
            "threads": model.threads,
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    print(json.dumps(measure(given.gguf, given.threads)))
