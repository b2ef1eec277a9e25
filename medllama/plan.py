"""`medllama plan RECIPE`: what a run will need, from the recipe and the base's shape; nothing is touched.

Sizes are computed, not guessed: parameters from the shape, bytes per parameter from the file types. Times follow from the
operations to do and a matrix product that is timed here (a tenth of a second), so they are those of this CPU; the time of a GPU is
not predicted. What cannot be known before the data is prepared is said to be unknown.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy

from medllama.checkpoint import read_config, require_llama
from medllama.config import looks_like_hub_id, source_path
from medllama.errors import InputError
from medllama.pipeline import configure_all, refuse
from medllama.recipe import Recipe
from medllama.stages import STAGES

# Published shapes of the bases that the shipped recipes name, for planning before their weights are here.
PUBLISHED_SHAPES = {
    "meta-llama/Llama-2-7b-hf": {
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 32, "vocab_size": 32000, "tie_word_embeddings": False,
    },
    "meta-llama/Llama-3.2-1B": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True,
    },
}  # fmt: skip
LICENCES = {
    "meta-llama/Llama-2-": "Llama 2 Community License: accept it on the model's page; its text and notice travel with the weights",
    "meta-llama/Llama-3.2-": 'Llama 3.2 Community License: accept it; show "Built with Llama"; the name begins with "Llama"',
}
BITS_PER_WEIGHT = {
    "F32": 32, "F16": 16, "BF16": 16, "Q8_0": 8.5, "Q6_K": 6.57, "Q5_K_M": 5.69, "Q5_K_S": 5.53, "Q4_K_M": 4.86,
    "Q4_K_S": 4.58, "Q4_0": 4.55, "Q3_K_M": 3.91, "Q2_K": 3.0,
}  # fmt: skip
LIBRARIES_BYTES = 0.6e9  # resident memory of PyTorch, Transformers and TRL before any model
VERIFY_TOKENS = 3000
CHARACTERS_PER_TOKEN = 4.0


def plan(recipe: Recipe, runs_dir: Path) -> dict[str, Any]:
    """Print the plan on stderr and return its figures: bytes, seconds and licences."""
    folder = runs_dir.absolute() / recipe.name
    configs, problems = configure_all(STAGES, recipe, folder, {})
    refuse(recipe, {}, problems)
    shape, where = find_shape(configs["train"].base_model)
    parameters = count_parameters(shape)
    lora = count_lora_parameters(shape, configs["train"].rank)
    convert = configs["convert"]
    disk = {"adapter": lora * 4} | {name: file_bytes(parameters, name) for name in convert.file_types}
    if (baseline := convert.baseline_path()) is not None:
        disk["the base, quantized"] = file_bytes(parameters, baseline.stem.rpartition("-")[2])
        disk["the base at 16 bits, for a while"] = file_bytes(parameters, "F16")
    if where == "hub":
        disk["base (download)"] = parameters * 2
    memory = {
        "train on a CPU": round(LIBRARIES_BYTES + 4 * parameters + 16 * lora),
        "train on a GPU, before activations": round(2 * parameters + 16 * lora),
        "convert": round(0.2e9 + 3 * 4 * shape["vocab_size"] * shape["hidden_size"]),
        "verify": round(LIBRARIES_BYTES + 4 * parameters + parameters * 2),
    }
    rate = measured_operations_per_second()
    tokens = prepared_tokens(configs["train"].data)
    seconds: dict[str, float | None] = {
        "train on this CPU": None if tokens is None else 4 * parameters * tokens * configs["train"].epochs / rate,
        "verify": 2 * 2 * parameters * VERIFY_TOKENS / rate,
    }
    figures: dict[str, Any] = {
        "recipe": recipe.name,
        "missing": [problem for problems in recipe.missing.values() for problem in problems],
        "base_model": configs["train"].base_model,
        "base_is": where,
        "parameters": parameters,
        "lora_parameters": lora,
        "disk_bytes": disk,
        "free_disk_bytes": shutil.disk_usage(_existing(folder)).free,
        "memory_bytes": memory,
        "seconds": seconds,
        "licences": _licences(configs["train"].base_model, configs["prepare"].source),
    }
    _print(figures)
    return figures


def file_bytes(parameters: int, file_type: str) -> int:
    """About how large a GGUF of this type is; 16 bits a weight where the type is not in the table."""
    return round(parameters * BITS_PER_WEIGHT.get(file_type, 16) / 8)


def find_shape(base_model: str) -> tuple[dict[str, Any], str]:
    """The shape of a base, and whether it is a folder ("here") or still to be downloaded ("hub")."""
    name = base_model.split("@")[0]
    if (folder := Path(base_model).expanduser()).is_dir():
        shape = read_config(folder)
        require_llama(shape, folder)
        return shape | {"num_key_value_heads": shape.get("num_key_value_heads") or shape["num_attention_heads"]}, "here"
    if name in PUBLISHED_SHAPES:
        return PUBLISHED_SHAPES[name], "hub"
    hint = "download it first: hf download " + name if looks_like_hub_id(name) else "name a folder with a config.json"
    raise InputError(f"the shape of {base_model} is not known here", hint=hint)


def count_parameters(shape: dict[str, Any]) -> int:
    """The parameters of a Llama of this shape, biases left out."""
    hidden, layers = shape["hidden_size"], shape["num_hidden_layers"]
    embedding = shape["vocab_size"] * hidden * (1 if shape.get("tie_word_embeddings") else 2)
    matrices = sum(rows * columns for rows, columns in _linear_layers(shape))
    return embedding + layers * (matrices + 2 * hidden) + hidden


def count_lora_parameters(shape: dict[str, Any], rank: int) -> int:
    """The parameters of a LoRA of this rank on every linear layer."""
    return shape["num_hidden_layers"] * sum(rank * (rows + columns) for rows, columns in _linear_layers(shape))


def _linear_layers(shape: dict[str, Any]) -> list[tuple[int, int]]:
    hidden, heads = shape["hidden_size"], shape["num_attention_heads"]
    head_dim = shape.get("head_dim") or hidden // heads
    query, key = heads * head_dim, shape["num_key_value_heads"] * head_dim
    feed_forward = shape["intermediate_size"]
    attention = [(query, hidden), (key, hidden), (key, hidden), (hidden, query)]
    return [*attention, (feed_forward, hidden), (feed_forward, hidden), (hidden, feed_forward)]


def measured_operations_per_second() -> float:
    """Float32 operations a second of a matrix product on this CPU: the best of three."""
    size = 1024
    matrix = numpy.ones((size, size), dtype=numpy.float32)
    best = 0.0
    for _ in range(3):
        started = time.perf_counter()
        matrix @ matrix
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def prepared_tokens(data: Path) -> int | None:
    """About how many tokens a prepared training file holds (a quarter of its characters); None before it is prepared."""
    path = data / "train.jsonl"
    if not path.is_file():
        return None
    characters = 0
    with path.open(encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            texts = [message["content"] for message in record.get("messages", [])] or [record.get("text", "")]
            characters += sum(map(len, texts))
    return round(characters / CHARACTERS_PER_TOKEN)


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
    total = sum(figures["disk_bytes"].values())
    lines = [
        f"plan of {figures['recipe']}: {figures['base_model']} ({where}), {figures['parameters'] / 1e6:,.1f} M parameters, "
        f"LoRA {figures['lora_parameters'] / 1e6:,.2f} M",
        f"disk     {total / 1e9:.2f} GB: "
        + ", ".join(f"{name} {size / 1e9:.2f}" for name, size in figures["disk_bytes"].items()),
        f"         {figures['free_disk_bytes'] / 1e9:.0f} GB are free"
        + ("" if figures["free_disk_bytes"] > total else ": not enough"),
    ]
    lines += [f"memory   {size / 1e9:6.2f} GB  {name}" for name, size in figures["memory_bytes"].items()]
    for name, seconds in figures["seconds"].items():
        shown = (
            "known once the data is prepared"
            if seconds is None
            else f"at least {seconds / 60:,.1f} minutes of arithmetic"
        )
        lines.append(f"time     {name}: {shown} on {os.cpu_count()} cores")
    lines += [f"licence  {name}: {text}" for name, text in figures["licences"].items()]
    lines += [f"missing  {problem}" for problem in figures["missing"]]
    print("\n".join(lines), file=sys.stderr)
