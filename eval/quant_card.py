"""The quant card: what each type of one model loses against the widest file, and what it costs to run.

    medllama eval --gguf m-Q4_K_M.gguf --card m-F16.gguf m-Q8_0.gguf m-Q4_K_M.gguf --within "kld<0.02" --data data --output r.json

The reference (F32, else BF16, else F16) and a file are open at the same time: each document goes through both, and only its logits
are in memory. The texts are those of the tasks, every token of them. `--within` names the smallest file that keeps the bounds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy

from eval.divergence import Divergence, divergence, summarize
from eval.file_cost import file_cost
from eval.ledger import Ledger, Ledgers
from eval.prompts import Answers, ids_sha256
from medllama import progress
from medllama.errors import InputError
from medllama.files import sha256_file
from medllama.llamacpp import Context, Model

WIDEST = ("F32", "BF16", "F16")
STEP_TOKENS = 512
PROTOCOL = (
    "The prompts of the tasks, each from an empty cache in both files, batches of at most 512 tokens, a float32 cache: kld is the "
    "mean over tokens of the KL divergence of the reference's next-token distribution from the file's, in nats, sums in float64; "
    "same_top the share of places with the same likeliest token; perplexity_ratio the file's perplexity on these tokens over the "
    "reference's. Standard errors: ratio estimator with prompts as clusters. Speed and memory: a process of its own per file, with "
    "llama.cpp's default settings."
)
BYTES = {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9}
SHARES = {"": 1.0, "%": 0.01}
BOUND = re.compile(r"^\s*(\w+)\s*(<=|>=|<|>)\s*((?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(\w*|%)\s*$")
FIGURES = ("kld", "same_top", "perplexity_ratio", "size", "memory", "accuracy")


class Bound(NamedTuple):
    """A figure of the card, how it compares, and with what: ("kld", "<", 0.02)."""

    figure: str
    comparison: str
    limit: float


def quant_card(
    files: Sequence[Path], prompts: Sequence[Answers], max_tokens: int, threads: int | None, ledgers: Ledgers
) -> dict[str, Any]:
    """The card of these files. Raises InputError where none of them is a reference."""
    if not prompts:
        raise InputError("a quant card needs texts", hint="name a task: --task test.jsonl")
    types = types_of(files)
    reference = reference_of(types)
    texts, digests = _texts(prompts, max_tokens), {path: sha256_file(path) for path in files}
    rows = []
    for path in sorted(files, key=lambda path: path.stat().st_size):
        against = None
        if path != reference:
            decides = {"texts": texts, "reference": digests[reference], "file": digests[path]}
            against = compare(reference, path, texts, threads, ledgers.open(f"card-{path.stem}", decides))
        row = {"file": path.name, "type": types[path], "bytes": path.stat().st_size, "sha256": digests[path]}
        rows.append(row | {"against_reference": against, "cost": file_cost(path, threads)})
    return {"protocol": PROTOCOL, "reference": reference.name, "prompts_sha256": ids_sha256(texts), "files": rows}


def types_of(files: Sequence[Path]) -> dict[Path, str]:
    """The type of each file. Raises InputError where one is no GGUF, or where two have the same name."""
    if len({path.name for path in files}) < len(files):
        raise InputError(
            "two files of the card have the same name", hint="the card tells files by their names: rename one"
        )
    return {path: _type(path) for path in files}


def reference_of(types: Mapping[Path, str]) -> Path:
    """The widest file. Raises InputError where all are quantized."""
    reference = next((path for wide in WIDEST for path, name in types.items() if name == wide), None)
    if reference is None:
        raise InputError(
            f"none of {', '.join(path.name for path in types)} is F32, BF16 or F16",
            hint="the card compares with the unrounded file: convert with --types F16,...",
        )
    return reference


def _type(path: Path) -> str:
    """The file's type as llama.cpp spells it, by its own metadata or, where that has none, by its name."""
    with Model(path, vocab_only=True) as model:
        number = model.metadata("general.file_type")
    try:
        return gguf.LlamaFileType(int(number or -1)).name.removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:  # none, or newer than the library
        return path.stem.rpartition("-")[2]


def _texts(prompts: Sequence[Answers], max_tokens: int) -> list[list[int]]:
    """The first answer of each prompt as a text, until there are `max_tokens`."""
    found: list[list[int]] = []
    for answers in prompts:
        if sum(map(len, found)) >= max_tokens:
            break
        if len(answers[0].input_ids) > 1:
            found.append(list(answers[0].input_ids))
    return found


def compare(
    reference: Path, path: Path, texts: Sequence[Sequence[int]], threads: int | None, ledger: Ledger | None = None
) -> dict[str, Any]:
    """One file against the reference, both open; of each text every token but the first is predicted."""
    room = max(map(len, texts))
    found = [Divergence(*done) for done in (ledger.read() if ledger else [])]
    with Model(reference, threads=threads) as wide, Model(path, threads=threads) as narrow:
        if wide.n_vocab != narrow.n_vocab:
            raise InputError(f"{path} has another vocabulary than {reference}", hint="a card is of one model's files")
        with (
            Context(wide, context_tokens=room, batch_tokens=STEP_TOKENS) as first,
            Context(narrow, context_tokens=room, batch_tokens=STEP_TOKENS) as second,
        ):
            for text in texts[len(found) :]:
                progress.update(f"{path.name} against {reference.name}", len(found), len(texts))
                ids = text[:-1]
                targets = numpy.array(text[1:], dtype=numpy.int64)
                found.append(divergence(first.logits(ids), second.logits(ids), targets))
                if ledger:
                    ledger.append(astuple(found[-1]))
    return summarize(found)


def smallest_within(
    expression: str, bounds: Sequence[Bound], card: dict[str, Any], accuracies: dict[str, float]
) -> dict[str, Any]:
    """The smallest file of the card that keeps every bound; None where none does."""
    kept = [row["file"] for row in card["files"] if all(_holds(row, bound, accuracies) for bound in bounds)]
    return {"expression": expression, "file": kept[0] if kept else None, "all": kept}


def parse(expression: str) -> list[Bound]:
    """The bounds of an expression like "kld<0.02, size<4GB". Raises InputError where it is none."""
    found = []
    for part in expression.split(","):
        match = BOUND.match(part)
        name = match[1] if match else ""
        units = BYTES if name in ("size", "memory") else SHARES
        if match is None or name not in FIGURES or match[4].lower() not in units:
            raise _no_bound(expression, part, "")
        limit = float(match[3]) * units[match[4].lower()]
        if name in ("same_top", "accuracy") and limit > 1:
            raise _no_bound(expression, part, ": a share is at most 1, or 100%")
        found.append(Bound(name, match[2], limit))
    return found


def _no_bound(expression: str, part: str, why: str) -> InputError:
    return InputError(
        f"--within {expression!r}: {part.strip()!r} is no bound{why}",
        hint=f'for example "kld<0.02, same_top>=95%, size<4GB"; the figures are {", ".join(FIGURES)}',
    )


def _holds(row: dict[str, Any], bound: Bound, accuracies: dict[str, float]) -> bool:
    value = figure(row, bound.figure, accuracies)
    if value is None:
        return False
    limit = bound.limit
    return {"<": value < limit, "<=": value <= limit, ">": value > limit, ">=": value >= limit}[bound.comparison]


def figure(row: dict[str, Any], name: str, accuracies: dict[str, float]) -> float | None:
    """A figure of a card's row; the reference is itself."""
    against = row["against_reference"]
    own = {"kld": 0.0, "same_top": 1.0, "perplexity_ratio": 1.0}
    if name in own:
        return own[name] if against is None else float(next(iter(against[name].values())))
    if name == "accuracy":
        return accuracies.get(row["file"])
    return float(row["bytes"] if name == "size" else row["cost"]["peak_memory_bytes"])
