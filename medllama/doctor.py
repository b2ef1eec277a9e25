"""`medllama doctor`: what is installed here, and what to do about what is missing.

Nothing is changed and nothing is sent. A finding is "ok", "note" (works, but slower or with less) or "missing".
"""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medllama.cores import usable_cores
from medllama.rundir import RECORDED_PACKAGES

OLLAMA_URL = "http://127.0.0.1:11434"
SMALL_DISK_BYTES = 20e9
WANTED_CPU_FEATURES = {"avx2": "llama.cpp's fast kernels", "f16c": "fast float16", "fma": "fast products"}


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    what: str
    state: str
    found: str
    advice: str = ""


def doctor() -> dict[str, Any]:
    """Look at everything, print a table on stderr, return the findings."""
    findings = [_python(), *_packages(), _compiler(), _cpu(), _quantizers(), _memory(), _gpu(), _ollama(), _disk()]
    for finding in findings:
        print(f"{finding.state:<8} {finding.what:<18} {finding.found}", file=sys.stderr)
        if finding.advice:
            print(f"{'':<27} -> {finding.advice}", file=sys.stderr)
    return {"findings": [asdict(finding) for finding in findings]}


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _packages() -> list[Finding]:
    findings = []
    for package in RECORDED_PACKAGES:
        try:
            findings.append(Finding(package, "ok", importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            findings.append(Finding(package, "missing", "not installed", "make setup"))
    return findings


def _compiler() -> Finding:
    for name in ("c++", "g++", "clang++"):
        if path := shutil.which(name):
            return Finding("C++ compiler", "ok", path)
    return Finding(
        "C++ compiler",
        "note",
        "none",
        "needed only to build llama-cpp-python: apt install g++, or xcode-select --install",
    )


def _cpu() -> Finding:
    flags: set[str] = set()
    if (path := Path("/proc/cpuinfo")).is_file():
        line = next((line for line in path.read_text().splitlines() if line.startswith("flags")), "")
        flags = set(line.partition(":")[2].split())
    missing = [name for name in WANTED_CPU_FEATURES if flags and name not in flags]
    found = f"{usable_cores()} cores" + (
        f", {', '.join(name for name in WANTED_CPU_FEATURES if name in flags)}" if flags else ""
    )
    if missing:
        lost = ", ".join(f"{name} ({WANTED_CPU_FEATURES[name]})" for name in missing)
        return Finding("CPU", "note", found, f"without {lost} everything works, more slowly")
    return Finding("CPU", "ok", found)


def _quantizers() -> Finding:
    if not _is_installed("llama-cpp-python"):
        return Finding("quantizers", "missing", "llama-cpp-python is not installed", "make setup")
    from medllama.llamacpp.vectorized import TYPES, proven_chunk

    fast = [name for name in TYPES if proven_chunk(name)]
    found = f"{', '.join(fast)} in vectors, to llama.cpp's bytes" if fast else "llama.cpp's own"
    if len(fast) == len(TYPES):
        return Finding("quantizers", "ok", found)
    return Finding(
        "quantizers",
        "note",
        found,
        "other types take several times as long to quantize; vectors want a processor with AVX2 and, on Linux or macOS, a C "
        "compiler: python setup.py build_ext --inplace",
    )


def _memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    found = f"{memory.total / 1e9:.1f} GB, {memory.available / 1e9:.1f} GB free"
    if memory.total < 4e9:
        return Finding("memory", "note", found, "the embedded model runs; use a larger machine for 1B and above")
    return Finding("memory", "ok", found)


def _gpu() -> Finding:
    advice = "the embedded model trains on a CPU; a 1B or 7B base wants a CUDA GPU"
    if not shutil.which("nvidia-smi"):
        return Finding("GPU", "note", "no NVIDIA driver", advice)
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        outcome = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("GPU", "note", f"nvidia-smi does not answer: {error}", advice)
    if outcome.returncode != 0 or not outcome.stdout.strip():
        return Finding("GPU", "note", "nvidia-smi reports none", advice)
    build = importlib.metadata.version("torch") if _is_installed("torch") else ""
    if build.endswith("+cpu"):
        return Finding(
            "GPU",
            "note",
            outcome.stdout.strip(),
            f"this PyTorch is built for the CPU: {sys.executable} -m pip install torch",
        )
    return Finding("GPU", "ok", outcome.stdout.strip().replace("\n", "; "))


def _ollama() -> Finding:
    try:
        with urllib.request.urlopen(f"{OLLAMA_URL}/api/version", timeout=2) as answer:
            return Finding(
                "Ollama", "ok", f"a server answers at {OLLAMA_URL}: {answer.read(200).decode(errors='replace')}"
            )
    except (urllib.error.URLError, OSError, ValueError):
        pass
    if path := shutil.which("ollama"):
        return Finding("Ollama", "note", f"{path}, no server", "start it: ollama serve")
    return Finding(
        "Ollama",
        "note",
        "not installed",
        "needed only to run the result with `ollama run`: https://ollama.com/download",
    )


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    found = f"{free / 1e9:.1f} GB free here"
    if free < SMALL_DISK_BYTES:
        return Finding(
            "disk", "note", found, "enough for the embedded model; a 7B run needs about 70 GB: medllama plan llama2-7b"
        )
    return Finding("disk", "ok", found)


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
