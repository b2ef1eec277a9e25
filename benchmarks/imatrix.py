"""Whether an importance matrix of the run's own training text helps on held-out text, per type.

    medllama run tiny && python -m benchmarks.imatrix --run runs/tiny

The merged model of a run is quantized to each type without a matrix and with one made of its train.jsonl. Both files read the
records of test.jsonl, and at every position their next-token distribution is compared with that of the F16 file: the
Kullback-Leibler divergence, in nats, averaged over a record. The interval is a 95% bootstrap over records of the difference, with
minus without; below zero the matrix helps.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy

from benchmarks.measure import command, machine
from convert.config import ConvertConfig
from convert.convert import convert
from convert.importance import encode_record
from medllama.files import read_json, read_jsonl
from medllama.gguf_metadata import read_gguf_metadata
from medllama.llamacpp import Context, Model
from medllama.llamacpp.importance import BATCH_TOKENS

TYPES = ("Q2_K", "Q3_K_M", "IQ4_XS", "Q4_K_M", "Q5_K_M", "Q6_K")
RESAMPLES, SEED = 10_000, 0


def measure(base: str, adapter: Path, data: Path, records: int, tokens: int, folder: Path) -> dict[str, Any]:
    """Mean divergences per type without and with the matrix, and the interval of their difference."""
    plain = ConvertConfig(base, folder / "plain", adapter=adapter, types=("F16", *TYPES), name="m")
    convert(plain)
    convert(
        replace(
            plain, output_dir=folder / "weighted", types=TYPES, importance="auto", importance_data=data,
            importance_tokens=tokens,
        )
    )  # fmt: skip
    prompts = _prompts(folder / "plain" / "m-F16.gguf", data / "test.jsonl", records)
    with Model(folder / "plain" / "m-F16.gguf") as model, Context(model, context_tokens=BATCH_TOKENS) as context:
        truth = [_log_probabilities(context.logits(prompt)) for prompt in prompts]
    found = {}
    for file_type in TYPES:
        without, with_matrix = (
            _divergences(folder / kind / f"m-{file_type}.gguf", prompts, truth) for kind in ("plain", "weighted")
        )
        found[file_type] = {
            "without": float(without.mean()),
            "with": float(with_matrix.mean()),
            "difference_95": _interval(with_matrix - without),
        }
    tokens_read = sum(map(len, prompts))
    return {
        "records": len(prompts),
        "tokens": tokens_read,
        "importance_tokens": tokens,
        "types": found,
        "command": command("benchmarks.imatrix"),
        "machine": machine(),
    }


def _prompts(model: Path, path: Path, count: int) -> list[list[int]]:
    """`count` records, spread over the file, as the model was trained on them."""
    said = read_gguf_metadata(model)
    found = [encode_record(place, record, said.tokenizer, said.chat) for place, record in read_jsonl(path)]
    found = [ids for ids in found if ids]
    count = min(count, len(found))
    return [found[index * len(found) // count] for index in range(count)]


def _log_probabilities(logits: numpy.ndarray) -> numpy.ndarray:
    wide = logits.astype(numpy.float64)
    wide -= wide.max(axis=1, keepdims=True)
    return wide - numpy.log(numpy.exp(wide).sum(axis=1, keepdims=True))


def _divergences(path: Path, prompts: list[list[int]], truth: list[numpy.ndarray]) -> numpy.ndarray:
    """The mean divergence of each record, in nats."""
    with Model(path) as model, Context(model, context_tokens=BATCH_TOKENS) as context:
        found = [_log_probabilities(context.logits(prompt)) for prompt in prompts]
    return numpy.array(
        [
            float((numpy.exp(right) * (right - ours)).sum(axis=1).mean())
            for right, ours in zip(truth, found, strict=True)
        ]
    )


def _interval(differences: numpy.ndarray) -> list[float]:
    rng = numpy.random.default_rng(SEED)
    means = differences[rng.integers(0, len(differences), (RESAMPLES, len(differences)))].mean(axis=1)
    return [float(edge) for edge in numpy.quantile(means, (0.025, 0.975))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/tiny"), help="a finished run (default: runs/tiny)")
    parser.add_argument("--records", type=int, default=300, help="records of its test.jsonl to read")
    parser.add_argument("--tokens", type=int, default=32_768, help="tokens of its train.jsonl for the matrix")
    given = parser.parse_args()
    base = read_json(given.run / "manifests" / "train.json")["config"]["base_model"]
    with tempfile.TemporaryDirectory() as folder:
        found = measure(base, given.run / "adapter", given.run / "data", given.records, given.tokens, Path(folder))
    print(f"{'':<8}{'KLD without':>13}{'with':>10}   95% interval of the difference")
    for name, entry in found["types"].items():
        low, high = entry["difference_95"]
        verdict = "helps" if high < 0 else "harms" if low > 0 else "no difference shown"
        print(f"{name:<8}{entry['without']:>13.5f}{entry['with']:>10.5f}   {low:+.5f} to {high:+.5f}  {verdict}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
