"""What a command costs: seconds, peak memory and bytes written of a process of its own, and the machine that it ran on.

    cost = medllama("convert", "--base-model", base, "--types", "Q4_K_M", "--output-dir", out)
    cost = call("benchmarks.usual_route_cost:merge_and_save", base, adapter, merged)

The time includes starting Python, as a person who calls it waits for that too.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from medllama.errors import MedllamaError


@dataclass(frozen=True)
class Cost:
    """Wall-clock seconds; VmHWM in bytes, in which mapped file pages count too (ru_maxrss begins at the parent's size); the
    bytes given to write(), temporary files included, as Linux counts them."""

    seconds: float
    peak_memory_bytes: int
    written_bytes: int


def call(function: str, *arguments: object) -> Cost:
    """Call `module:function` with texts in a process of its own. Raises MedllamaError where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "benchmarks.measure", str(report), function, *map(str, arguments)]
        begun = time.perf_counter()
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - begun
        if finished.returncode != 0:
            raise MedllamaError(f"{function} failed: {finished.stderr[-2000:]}")
        return Cost(seconds, **json.loads(report.read_text()))


def medllama(*arguments: object) -> Cost:
    """Run a verb of medllama in a process of its own."""
    return call("benchmarks.measure:run_medllama", *arguments)


def run_medllama(*arguments: str) -> None:
    from medllama.cli import main

    if (status := main(list(arguments))) != 0:
        raise SystemExit(status)


def command(module: str) -> str:
    """The command line of the benchmark that is running."""
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def machine() -> dict[str, object]:
    """What a figure depends on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def _main(report: str, function: str, *arguments: str) -> None:
    module, _, name = function.partition(":")
    getattr(importlib.import_module(module), name)(*arguments)
    costs = {
        "peak_memory_bytes": _counter("status", "VmHWM:") * 1024,
        "written_bytes": _counter("io", "wchar:"),
    }
    Path(report).write_text(json.dumps(costs))


def _counter(file: str, name: str) -> int:
    lines = Path("/proc/self", file).read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


if __name__ == "__main__":
    _main(*sys.argv[1:])
