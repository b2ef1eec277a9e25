"""A run's folder with every record that the report reads, small and made up; tests take parts away or change them.

    run = make_run(tmp_path / "tiny")
    change(run / "eval/results.json", lambda results: results["tasks"][0]["warnings"].append("too small to tell"))

That stages write records of this shape is what tests/test_tiny_run.py shows.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medllama.files import sha256_file

BASE, ADAPTER, TUNED = "ba5e" * 16, "ada9" * 16, "7d4e" * 16
STAGES = ("prepare", "train", "convert", "verify", "eval", "package")
SHARES = {"model": (18, 0.9, [0.699, 0.972]), "baseline": (11, 0.55, [0.342, 0.742])}
NATS = {"model": (0.123, 0.011), "baseline": (1.789, 0.051)}


def make_run(folder: Path) -> Path:
    """A finished run: nothing is missing, and all of its parts belong together."""
    test = write_lines(folder / "data/multiple_choice.jsonl", [{"document_id": f"drug/{n}"} for n in range(20)])
    write_lines(folder / "data/train.jsonl", [{"document_id": f"drug/{n}"} for n in range(30)])
    write_lines(folder / "eval/items-multiple_choice.jsonl", [{"document_id": f"drug/{n}"} for n in range(20)])
    write(folder / "data/data_card.json", data_card())
    (folder / "data/NOTICE").write_text("leaflets\n  Licence: CC-BY-4.0\n")
    write(folder / "adapter/training.json", training())
    write_lines(
        folder / "adapter/metrics.jsonl",
        [
            {"step": 10, "loss": 2.25, "validation_loss": None},
            {"step": 20, "loss": 0.0625, "validation_loss": None},
            {"step": 20, "loss": None, "validation_loss": 0.0734},
        ],
    )
    write(folder / "certificate.json", certificate())
    write(folder / "eval/results.json", results(sha256_file(test)))
    for number, stage in enumerate(STAGES, start=1):
        write(folder / f"manifests/{stage}.json", manifest(folder, stage, number))
    return folder


def change(path: Path, edit: Callable[[Any], Any]) -> None:
    """Edit the JSON of a file in place."""
    value = json.loads(path.read_text())
    edit(value)
    write(path, value)


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def write_lines(path: Path, values: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def data_card() -> dict[str, Any]:
    counts = {"read": 1234, "kept": 1230, "dropped": {"duplicate": 4}}
    source = {"name": "leaflets", "licence": "CC-BY-4.0", "attribution": "the makers", "url": "", "sha256": "5e" * 32}
    return {
        "publishable": True,
        "records": {"train": 1180, "validation": 20, "test": 10, "multiple_choice": 20},
        "sources": [{**source, "counts": counts, "problems": []}],
    }


def training() -> dict[str, Any]:
    counts = {"records": 1180, "tokens": 45678, "learned_tokens": 9876, "truncated": 0, "dropped": 0}
    loss = {"base": {"nats_per_token": 4.321}, "tuned": {"nats_per_token": 0.0734}}
    return {
        "base": {"name": "/home/somebody/models/small-base", "files": {"config.json": BASE}},
        "hyperparameters": {"rank": 16, "learning_rate": 0.004, "target_modules": ["all-linear"], "max_steps": None},
        "chat_template_sha256": "c4a7" * 16,
        "records": {"train": counts},
        "loss": {"validation": loss},
        "steps": 20,
        "best_step": 20,
        "trained_tokens": 45678,
        "trainable_parameters": 32768,
        "device": "cpu",
        "dtype": "float32",
        "versions": {"medllama": "0.1.0"},
    }


def certificate() -> dict[str, Any]:
    check = {"verdict": "pass", "likely_cause": "", "where": ""}
    logits = {"name": "logits", "figure": 0.0561, "bound": 0.112, "reason": "twice the rounding", **check}
    tensors = {"name": "tensors", "figure": "39 tensors", "bound": None, "reason": "all of them", **check}
    details = {"top1_agreement": 0.866, "tokens": 2599}
    file = {"name": "tiny-Q4_K_M.gguf", "sha256": TUNED, "bytes": 3221920, "type": "Q4_K_M", "model": "merged"}
    checks = [{**tensors, "details": {}}, {**logits, "details": details}]
    return {
        "verdict": "pass",
        "base": {"name": "small-base", "config_sha256": BASE},
        "adapter": {"sha256": ADAPTER},
        "sampled": None,
        "files": [{**file, "verdict": "pass", "checks": checks}],
    }


def results(test_sha256: str) -> dict[str, Any]:
    accuracies = {
        role: {"right": right, "accuracy": share, "interval_95": interval}
        for role, (right, share, interval) in SHARES.items()
    }
    known = {"records": 20, "measured": 20, "documents": 20, "protocol": "Zero-shot.", "warnings": []}
    choice = {
        "task": "multiple_choice",
        "kind": "multiple_choice",
        "sha256": test_sha256,
        "left_out": {"not_sampled": 0, "too_long": 0},
        "items_file": "items-multiple_choice.jsonl",
        **known,
        **accuracies,
        "difference": {
            "accuracy": 0.35,
            "interval_95": [0.118, 0.567],
            "bootstrap_95": [0.1, 0.6],
            "mcnemar_exact_p": 0.0156,
            "only_model_right": 8,
            "only_baseline_right": 1,
        },
        "by_subject": [{"subject": "drug", "items": 20, "model": 0.9, "baseline": 0.55}],
    }
    part = {"tokens": 432, "documents": 10, "difference": None} | {
        role: {
            "nats_per_token": nats,
            "standard_error": error,
            "interval_95": [nats - 2 * error, nats + 2 * error],
            "perplexity": 1.131 if role == "model" else 5.983,
            "perplexity_interval_95": [1.1, 1.2] if role == "model" else [5.4, 6.6],
            "nats_per_byte": nats / 4,
        }
        for role, (nats, error) in NATS.items()
    }
    part["difference"] = {"nats_per_token": -1.666, "standard_error": 0.05, "interval_95": [-1.764, -1.568]}
    perplexity = {
        "task": "test",
        "kind": "perplexity",
        "sha256": "7e57" * 16,
        "left_out": {"not_sampled": 30, "too_long": 0},
        "items_file": "items-test.jsonl",
        **known,
        "records": 50,
        "answer_text": part,
        "with_ending": part,
    }
    said = {"text": "A statin.", "tokens": 7, "ended": True, "is_expected": True}
    sample = {
        "origin": "test",
        "kind": None,
        "messages": [{"role": "user", "content": "What lowers LDL?"}],
        "expected": "A statin.",
    }
    mean = {"mean": 1.25, "standard_error": 0.75}
    likeness: dict[str, Any] = dict.fromkeys(
        ("rouge1", "rouge2", "rougeL", "tokens", "words", "expected_words", "ended"), mean
    )
    likeness |= {name: {"score": 61.5, "signature": "version:2"} for name in ("bleu", "chrf")}
    free = {"accuracy": 0.75, "interval_95": [0.52, 0.88], "bootstrap_95": [0.5, 0.9], "mcnemar_exact_p": 0.0002}
    generation = {
        "protocol": "Greedy.", "measured": 16, "documents": 16, "warnings": [], "model": likeness, "baseline": likeness,
        "exactly_right": {
            "model": {"right": 13, "accuracy": 0.8125, "interval_95": [0.57, 0.934]},
            "baseline": {"right": 1, "accuracy": 0.0625, "interval_95": [0.011, 0.283]},
            "difference": {**free, "only_model_right": 12, "only_baseline_right": 0},
        },
    }  # fmt: skip
    rambled = {"text": "The main cause of", "tokens": 64, "ended": False, "is_expected": False}
    return {
        "model": {"file": "/home/somebody/runs/tiny/gguf/tiny-Q4_K_M.gguf", "bytes": 3221920, "sha256": TUNED},
        "baseline": {"file": "/home/somebody/tiny-base-Q4_K_M.gguf", "bytes": 3221792, "sha256": "ba5e" * 16},
        "seed": 0,
        "tasks": [choice, perplexity],
        "generation": generation,
        "samples": {
            "protocol": "Greedy.",
            "max_tokens": 64,
            "too_long": 0,
            "items": [{**sample, "model": said, "baseline": rambled}],
        },
    }


def manifest(run: Path, stage: str, number: int) -> dict[str, Any]:
    """What a stage left: its outputs are the data's files, the adapter or nothing."""
    outputs: dict[str, Any] = {f"{{run}}/{stage}.out": {"bytes": 1000 * number, "sha256": "00" * 32}}
    inputs: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    data = {
        f"{{run}}/data/{path.name}": {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted((run / "data").glob("*.jsonl"))
    }
    if stage == "prepare":
        outputs = {**data, "{run}/data/test.jsonl": {"bytes": 1, "sha256": "7e57" * 16}}
    if stage == "train":
        inputs = data
        outputs["{run}/adapter/adapter_model.safetensors"] = {"bytes": 5000, "sha256": ADAPTER}
    if stage == "package":
        summary = {"licence": "mit", "obstacles": [], "files": {"tiny-Q4_K_M.gguf": TUNED}}
    cost = {"seconds": 1.5 * number, "peak_memory_bytes": 100_000_000 * number}
    return {"inputs": inputs, "outputs": outputs, "summary": summary, **cost}
