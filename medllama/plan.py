"""`medllama plan RECIPE`: what a run will need, stage by stage, from the recipe, the base's shape and the data; nothing is touched.

    medllama plan tiny
    medllama plan llama2-7b --gpu h100-80gb

Sizes are computed, not guessed: parameters from the shape, bytes per parameter from the file types. Times follow from the
operations to do and a matrix product of the model's own size that is timed here, so they are those of this CPU as busy as it is now,
within a factor of three (a test compares them with a run). For a named GPU the training's memory is counted, and its time follows
from the peak that its maker states and a share of it that is assumed (`medllama.gpus`). What cannot be known before the data is here
is said to be unknown.
"""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy

from medllama.config import source_path
from medllama.cores import usable_cores
from medllama.files import expand
from medllama.gpus import REACHED_SHARE, Gpu, find_gpu
from medllama.llamacpp import vectorized
from medllama.pipeline import configure_all, refuse
from medllama.progress import duration
from medllama.recipe import Recipe
from medllama.shapes import count_parameters, file_bytes, find_shape
from medllama.stages import STAGES
from medllama.training_cost import CUDA_BYTES, disk_bytes, lora_parameters, training_memory, training_operations
from medllama.workload import Workload, workload

LICENCES = {
    "meta-llama/Llama-2-": "Llama 2 Community License: accept it on the model's page; its text and notice travel with the weights",
    "meta-llama/Llama-3.2-": 'Llama 3.2 Community License: accept it; show "Built with Llama"; the name begins with "Llama"',
}
SLABS_BYTES = 60e6  # that convert has at work on each core
STATED = ("hf", "jsonl", "csv", "text")  # kinds of sources whose licence is a person's word
CORE_BYTES = 0.1e9  # resident memory of medllama itself
PREPARED_BYTES = 2e6  # of data that prepare writes in a second: cleaned, compared, counted in tokens
LIBRARIES_BYTES = 0.8e9  # with PyTorch, Transformers and TRL, before any model
CERTIFICATE_TOKENS = 2_900  # of verify's prompts, and of the texts that it lets a file write
CERTIFICATE_SECONDS = 2.5  # of verify's strings and prompts, for each file
LARGEST_LOGITS_BYTES = 0.5e9  # that verify and eval hold at once
# Seconds a parameter on one core: merging and rounding a file of 16 bits, quantizing one from it in vectors or by ggml, comparing
# either with the truth (python -m benchmarks.quantizers, python -m benchmarks.verify --shape 1.1b --full).
MERGE, QUANTIZE_IN_VECTORS, QUANTIZE, COMPARE = 5e-9, 10e-9, 75e-9, 150e-9


@dataclass(frozen=True)
class Needs:
    """What one stage needs: None is unknown. `disk_bytes` are written; some of them only for a while."""

    seconds: float | None
    memory_bytes: float | None
    disk_bytes: float | None


def plan(recipe: Recipe, runs_dir: Path, gpu: str | None = None) -> dict[str, Any]:
    """Print the plan on stderr and return its figures: bytes, seconds and licences; with `gpu` those of a training on it."""
    card = find_gpu(gpu) if gpu is not None else None
    folder = runs_dir.absolute() / recipe.name
    configs, problems = configure_all(STAGES, recipe, folder, {})
    refuse(recipe, {}, problems)
    train, convert = configs["train"], configs["convert"]
    shape, where = find_shape(train.base_model)
    base = expand(train.base_model) if where == "here" else None
    work = workload(configs["prepare"], train, configs["eval"], base) if not recipe.missing.get("prepare") else None
    parameters, lora = count_parameters(shape), lora_parameters(shape, train)
    files = {f"GGUF {name}": file_bytes(parameters, name) for name in convert.file_types}
    if (baseline := convert.baseline_path()) is not None:
        files["GGUF of the base"] = file_bytes(parameters, baseline.stem.rpartition("-")[2])
    disk = {"adapter": 4 * lora} | files
    if work is not None:
        disk["data"] = work.data_bytes
    if where == "hub":
        disk["base (download)"] = 2 * parameters
    needs = _needs(shape, parameters, lora, configs, work, files)
    figures: dict[str, Any] = {
        "recipe": recipe.name,
        "missing": [problem for problems in recipe.missing.values() for problem in problems],
        "base_model": train.base_model,
        "base_is": where,
        "parameters": parameters,
        "lora_parameters": lora,
        "training_tokens": round(work.training_tokens * train.epochs) if work is not None else None,
        "disk_bytes": disk,
        "free_disk_bytes": shutil.disk_usage(_existing(folder)).free,
        "gpu_memory_bytes": round(_gpu_memory(shape, train)),
        "gpu": None if card is None else _on_gpu(card, shape, train, work),
        "stages": {name: asdict(entry) for name, entry in needs.items()},
        "licences": _licences(train.base_model, configs["prepare"].source),
    }
    _print(figures)
    return figures


def _gpu_memory(shape: dict[str, Any], train: Any) -> float:
    """Bytes of a GPU that the training takes at most, in 16 bits: those of its most demanding phase."""
    phases = train.in_phases().values()
    return CUDA_BYTES + max(training_memory(shape, phase, value_bytes=2).total for phase in phases)


def _on_gpu(gpu: Gpu, shape: dict[str, Any], train: Any, work: Workload | None) -> dict[str, Any]:
    """Memory by what holds it, and seconds, of the training on this GPU."""
    phases = list(train.in_phases().values())
    largest = max((training_memory(shape, phase, value_bytes=2) for phase in phases), key=lambda memory: memory.total)
    seconds = None
    if work is not None:
        each = [
            training_operations(shape, phase, _tokens_of(phase, work), _tokens_of_a_record(work, phase))
            for phase in phases
        ]
        seconds = sum(each) / (gpu.operations_per_second * REACHED_SHARE)
    needed = _gpu_memory(shape, train)
    return {
        "name": gpu.name,
        "memory_bytes": gpu.memory_bytes,
        "needed_bytes": needed,
        "parts": largest.as_json(),
        "fits": needed <= gpu.memory_bytes,
        "seconds": seconds,
        "assumed_share_of_peak": REACHED_SHARE,
    }


def _tokens_of(phase: Any, work: Workload) -> float:
    """Tokens that a phase trains on. What share of the records is of its kind is not known: all of them are taken."""
    if phase.max_steps is not None:
        records = phase.max_steps * phase.batch_size * phase.gradient_accumulation
        return float(records * (phase.max_length if phase.packing else _tokens_of_a_record(work, phase)))
    return float(work.training_tokens * phase.epochs)


def _needs(
    shape: dict[str, Any], parameters: int, lora: int, configs: dict[str, Any], work: Workload | None,
    files: dict[str, int],
) -> dict[str, Needs]:  # fmt: skip
    """The needs of each stage on this CPU."""
    train, cores = configs["train"], usable_cores()
    batch_tokens = train.batch_size * min(train.max_length, 64 if work is None else _tokens_of_a_record(work, train))
    rate = operations_per_second(batch_tokens, shape)
    vocabulary, hidden = shape["vocab_size"], shape["hidden_size"]
    likely = replace(train, batch_size=1, max_length=batch_tokens, phases={})
    memory = training_memory({**shape, "max_position_embeddings": batch_tokens}, likely, value_bytes=4)
    largest = 4 * vocabulary * hidden
    ggufs = len(configs["verify"].gguf)
    quantized = list(configs["convert"].quantized_types)
    quantized += quantized[-1:] if "GGUF of the base" in files else []
    passes = 1 + ("GGUF of the base" in files)
    forward = 2 * parameters / rate  # seconds a token
    data = None if work is None else work.data_bytes
    measured = 0 if work is None else work.evaluated_tokens * 2 * forward
    return {
        "prepare": Needs(None if data is None else 1 + data / PREPARED_BYTES, CORE_BYTES, data),
        "train": Needs(
            None if work is None else 10 + 2 * forward * work.training_tokens * train.epochs,
            LIBRARIES_BYTES + memory.total,
            disk_bytes(lora),
        ),
        "convert": Needs(
            1 + parameters * (MERGE * passes + sum(map(_quantizing, quantized))) / cores,
            LIBRARIES_BYTES + SLABS_BYTES * cores,
            sum(files.values()),
        ),
        "verify": Needs(
            2 + CERTIFICATE_SECONDS * ggufs + (1 + ggufs) * forward * CERTIFICATE_TOKENS + parameters * COMPARE * ggufs / cores,
            LIBRARIES_BYTES + largest + min(LARGEST_LOGITS_BYTES, 4 * CERTIFICATE_TOKENS * vocabulary) + max(files.values()),
            None,
        ),
        "eval": Needs(
            None if work is None else 1 + measured,
            LIBRARIES_BYTES + min(files.values()) + min(LARGEST_LOGITS_BYTES, 4 * CERTIFICATE_TOKENS * vocabulary),
            None,
        ),
    }  # fmt: skip


def _quantizing(file_type: str) -> float:
    """Seconds a parameter on one core."""
    is_fast = any(file_type.startswith(name) and vectorized.proven_chunk(name) for name in vectorized.TYPES)
    return QUANTIZE_IN_VECTORS if is_fast else QUANTIZE


def _tokens_of_a_record(work: Workload, train: Any) -> int:
    return min(train.max_length, max(1, round(work.training_tokens / max(1, work.records))))


def operations_per_second(tokens: int, shape: dict[str, Any]) -> float:
    """Float32 operations a second of a layer's product on this CPU, (tokens, hidden) by (hidden, intermediate): the best of five."""
    left = numpy.ones((min(tokens, 1024), shape["hidden_size"]), dtype=numpy.float32)
    right = numpy.ones((shape["hidden_size"], shape["intermediate_size"]), dtype=numpy.float32)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - started)
    return 2 * left.shape[0] * right.size / best


def _licences(base_model: str, sources: tuple[str, ...]) -> dict[str, str]:
    found = {}
    known = next((text for prefix, text in LICENCES.items() if base_model.startswith(prefix)), None)
    folder = Path(base_model)
    texts = sorted(path.name for path in folder.glob("LICEN*")) if folder.is_dir() else []
    found["base"] = known or (
        f"{', '.join(texts)} in the base's folder" if texts else "unknown: no licence text beside the weights"
    )
    for source in sources:
        kind = source.partition(":")[0]
        settings = dict(setting.partition("=")[::2] for setting in source.partition("?")[2].split("&"))
        own = {"tiny": "MIT, this project's own", "medquad": "CC-BY-4.0"}.get(kind, "the source's own: docs/sources.md")
        if kind in STATED:
            own = "as each record says; without one it trains and is never published"
        name = kind + (":" + Path(source_path(source)).name if source_path(source) else "")
        found[name] = settings.get("licence") or own
    return found


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def _print(figures: dict[str, Any]) -> None:
    where = "on this disk" if figures["base_is"] == "here" else "to be downloaded"
    total, free = sum(figures["disk_bytes"].values()), figures["free_disk_bytes"]
    tokens = figures["training_tokens"]
    lines = [
        f"plan of {figures['recipe']}: {figures['base_model']} ({where}), {figures['parameters'] / 1e6:,.1f} M parameters, "
        f"LoRA {figures['lora_parameters'] / 1e6:,.2f} M, "
        + ("training tokens unknown until the data is here" if tokens is None else f"{tokens:,} training tokens"),
        f"{'stage':<9}{f'time on {usable_cores()} cores':>16}{'memory':>10}{'disk':>10}",
    ]
    for name, needs in figures["stages"].items():
        cells = [_seconds(needs["seconds"]), _bytes(needs["memory_bytes"]), _bytes(needs["disk_bytes"])]
        lines.append(f"{name:<9}{cells[0]:>16}{cells[1]:>10}{cells[2]:>10}")
    lines += [
        _gpu_line(figures),
        f"disk     {_bytes(total)} in all: "
        + ", ".join(f"{name} {_bytes(size)}" for name, size in figures["disk_bytes"].items()),
        f"         {_bytes(free)} are free" + ("" if free > total else ": not enough"),
    ]
    lines += [f"licence  {name}: {text}" for name, text in figures["licences"].items()]
    lines += [f"missing  {problem}" for problem in figures["missing"]]
    print("\n".join(lines), file=sys.stderr)


def _gpu_line(figures: dict[str, Any]) -> str:
    gpu = figures["gpu"]
    if gpu is None:
        needed = _bytes(figures["gpu_memory_bytes"])
        return f"gpu      training in 16 bits takes {needed} of a GPU's memory; --gpu NAME tells the time"
    parts = ", ".join(f"{name} {_bytes(size)}" for name, size in gpu["parts"].items() if name != "total")
    verdict = "" if gpu["fits"] else ": not enough"
    took = "its time is unknown until the data is here" if gpu["seconds"] is None else f"{_seconds(gpu['seconds'])}"
    share = f"at {gpu['assumed_share_of_peak']:.0%} of the stated peak, an assumption"
    return (
        f"gpu      {gpu['name']}: training takes {_bytes(gpu['needed_bytes'])} of {_bytes(gpu['memory_bytes'])}{verdict} ({parts}); "
        f"{took}, {share}"
    )


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else f"about {duration(value)}"


def _bytes(value: float | None) -> str:
    if value is None:
        return "little"
    return f"{value / 1e9:,.2f} GB" if value >= 1e8 else f"{value / 1e6:,.1f} MB"
