"""`medllama plan RECIPE`: what a run will need, stage by stage, from the recipe, the base's shape and the data; nothing is touched.

    medllama plan tiny

Sizes are computed, not guessed: parameters from the shape, bytes per parameter from the file types. Times follow from the
operations to do and a matrix product of the model's own size that is timed here, so they are those of this CPU as busy as it is now,
within a factor of three (a test compares them with a run); the time of a GPU is not predicted. What cannot be known before the data
is here is said to be unknown.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy

from medllama.config import source_path
from medllama.pipeline import configure_all, refuse
from medllama.progress import duration
from medllama.recipe import Recipe
from medllama.shapes import count_lora_parameters, count_parameters, file_bytes, find_shape
from medllama.stages import STAGES
from medllama.workload import Workload, workload

LICENCES = {
    "meta-llama/Llama-2-": "Llama 2 Community License: accept it on the model's page; its text and notice travel with the weights",
    "meta-llama/Llama-3.2-": 'Llama 3.2 Community License: accept it; show "Built with Llama"; the name begins with "Llama"',
}
SLABS_BYTES = 60e6  # that convert has at work on each core
CORE_BYTES = 0.1e9  # resident memory of medllama itself
PREPARED_BYTES = 2e6  # of data that prepare writes in a second: cleaned, compared, counted in tokens
LIBRARIES_BYTES = 0.8e9  # with PyTorch, Transformers and TRL, before any model
CERTIFICATE_TOKENS = 2_900  # of verify's prompts, and of the texts that it lets a file write
CERTIFICATE_SECONDS = 2.5  # of verify's strings and prompts, for each file
LARGEST_LOGITS_BYTES = 0.5e9  # that verify and eval hold at once
# Seconds a parameter on one core: merging and rounding a file of 16 bits, quantizing one from it, comparing either with the truth
# (python -m benchmarks.verify --shape 1.1b --full).
MERGE, QUANTIZE, COMPARE = 5e-9, 75e-9, 150e-9


@dataclass(frozen=True)
class Needs:
    """What one stage needs: None is unknown. `disk_bytes` are written; some of them only for a while."""

    seconds: float | None
    memory_bytes: float | None
    disk_bytes: float | None


def plan(recipe: Recipe, runs_dir: Path) -> dict[str, Any]:
    """Print the plan on stderr and return its figures: bytes, seconds and licences."""
    folder = runs_dir.absolute() / recipe.name
    configs, problems = configure_all(STAGES, recipe, folder, {})
    refuse(recipe, {}, problems)
    train, convert = configs["train"], configs["convert"]
    shape, where = find_shape(train.base_model)
    base = Path(train.base_model).expanduser() if where == "here" else None
    work = workload(configs["prepare"], train, configs["eval"], base) if not recipe.missing.get("prepare") else None
    parameters, lora = count_parameters(shape), count_lora_parameters(shape, train.rank)
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
        "gpu_memory_bytes": round(2 * parameters + 16 * lora),
        "stages": {name: asdict(entry) for name, entry in needs.items()},
        "licences": _licences(train.base_model, configs["prepare"].source),
    }
    _print(figures)
    return figures


def _needs(
    shape: dict[str, Any], parameters: int, lora: int, configs: dict[str, Any], work: Workload | None,
    files: dict[str, int],
) -> dict[str, Needs]:  # fmt: skip
    """The needs of each stage on this CPU."""
    train, cores = configs["train"], os.cpu_count() or 1
    batch_tokens = train.batch_size * min(train.max_length, 64 if work is None else _tokens_of_a_record(work, train))
    rate = operations_per_second(batch_tokens, shape)
    vocabulary, hidden, layers = shape["vocab_size"], shape["hidden_size"], shape["num_hidden_layers"]
    wide = 16 * hidden + 4 * shape["intermediate_size"]  # the values that a layer keeps of a token for its gradient
    activations = 4 * batch_tokens * (layers * wide + 4 * vocabulary)
    largest = 4 * vocabulary * hidden
    ggufs = len(configs["verify"].gguf)
    quantized = len(configs["convert"].quantized_types) + ("GGUF of the base" in files)
    passes = 1 + ("GGUF of the base" in files)
    forward = 2 * parameters / rate  # seconds a token
    data = None if work is None else work.data_bytes
    measured = 0 if work is None else work.evaluated_tokens * 2 * forward
    return {
        "prepare": Needs(None if data is None else 1 + data / PREPARED_BYTES, CORE_BYTES, data),
        "train": Needs(
            None if work is None else 10 + 2 * forward * work.training_tokens * train.epochs,
            LIBRARIES_BYTES + 4 * parameters + 16 * lora + activations,
            4 * lora,
        ),
        "convert": Needs(
            1 + parameters * (MERGE * passes + QUANTIZE * quantized) / cores,
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
        stated = source.partition("?licence=")[2]
        own = {"tiny": "MIT, this project's own", "medquad": "CC-BY-4.0"}
        found[kind + (":" + Path(source_path(source)).name if source_path(source) else "")] = stated or own.get(
            kind, "as each record says; without one it trains and is never published"
        )
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
        f"{'stage':<9}{f'time on {os.cpu_count()} cores':>16}{'memory':>10}{'disk':>10}",
    ]
    for name, needs in figures["stages"].items():
        cells = [_seconds(needs["seconds"]), _bytes(needs["memory_bytes"]), _bytes(needs["disk_bytes"])]
        lines.append(f"{name:<9}{cells[0]:>16}{cells[1]:>10}{cells[2]:>10}")
    lines += [
        f"training on a GPU takes {_bytes(figures['gpu_memory_bytes'])} of its memory before activations; its time is not predicted",
        f"disk     {_bytes(total)} in all: "
        + ", ".join(f"{name} {_bytes(size)}" for name, size in figures["disk_bytes"].items()),
        f"         {_bytes(free)} are free" + ("" if free > total else ": not enough"),
    ]
    lines += [f"licence  {name}: {text}" for name, text in figures["licences"].items()]
    lines += [f"missing  {problem}" for problem in figures["missing"]]
    print("\n".join(lines), file=sys.stderr)


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else f"about {duration(value)}"


def _bytes(value: float | None) -> str:
    if value is None:
        return "little"
    return f"{value / 1e9:,.2f} GB" if value >= 1e8 else f"{value / 1e6:,.1f} MB"
