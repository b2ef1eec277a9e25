"""How much a run has to compute: the tokens to train on and to measure, counted in the prepared data.

Where the data is not prepared yet, and its sources are on this disk and not large, it is prepared in a temporary folder, counted,
and thrown away: the plan touches nothing.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medllama import progress
from medllama.chat import load_chat
from medllama.config import source_path
from medllama.errors import MedllamaError
from medllama.files import read_jsonl
from medllama.stages import BY_NAME

CHARACTERS_PER_TOKEN = 4.0
TEMPLATE_TOKENS = 16  # of a conversation, beside its text
COUNTED_RECORDS = 200  # whose tokens are counted; the others are taken to be as long
SOURCE_BYTES = 100e6  # of sources that are prepared for the plan
TIMED_TOKENS = 1_600  # of a file of the quant card, in three rounds
OPTION_TOKENS = 24  # of a multiple-choice item's four options, which share their question


@dataclass(frozen=True)
class Workload:
    """Bytes of the prepared data, records and tokens of an epoch of training, and tokens that eval gives to one model."""

    data_bytes: int
    records: int
    training_tokens: int
    evaluated_tokens: int


def workload(prepare: Any, train: Any, evaluate: Any, base: Path | None) -> Workload | None:
    """Count the work of a run from the configurations of these stages; None where the data cannot be had now. `base` is the
    folder of the base model, if it is here."""
    if (train.data / "train.jsonl").is_file():
        return _count(train.data, train, evaluate, base)
    named = [Path(source_path(source)) for source in prepare.source if source_path(source)]
    files = [file for path in named for file in (path.rglob("*") if path.is_dir() else [path])]
    if not all(path.exists() for path in named) or sum(file.stat().st_size for file in files) > SOURCE_BYTES:
        return None
    with tempfile.TemporaryDirectory(prefix="medllama-plan-") as temporary, progress.stage("plan"):
        folder = Path(temporary) / "data"
        try:
            BY_NAME["prepare"].function()(dataclasses.replace(prepare, output_dir=folder))
        except MedllamaError:
            return None  # the run will say what is wrong with the data
        return _count(folder, train, evaluate, base)


def _count(data: Path, train: Any, evaluate: Any, base: Path | None) -> Workload:
    tokens = _token_counter(train, base)
    files = [path for path in data.iterdir() if path.is_file()]
    trained, records = _mean(data / "train.jsonl", tokens)
    measured, items = _mean(data / "test.jsonl", tokens)
    questions = sum(1 for _ in _records(data / "multiple_choice.jsonl"))
    evaluated = min(items, evaluate.max_records) * measured + questions * (measured + OPTION_TOKENS)
    evaluated += max(evaluate.samples, evaluate.generate) * evaluate.max_answer_tokens
    evaluated += evaluate.card_tokens * max(0, len(evaluate.card) - 1) + TIMED_TOKENS * len(evaluate.card)
    return Workload(sum(path.stat().st_size for path in files), records, round(trained * records), round(evaluated))


def _mean(path: Path, tokens: Callable[[dict[str, Any]], int]) -> tuple[float, int]:
    """The mean tokens of the first records of a file, and how many records there are."""
    counts: list[int] = []
    records = 0
    for record in _records(path):
        records += 1
        if len(counts) < COUNTED_RECORDS:
            counts.append(tokens(record))
    return sum(counts) / max(1, len(counts)), records


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        yield from (record for _, record in read_jsonl(path))


def _token_counter(train: Any, base: Path | None) -> Callable[[dict[str, Any]], int]:
    """Counts a record's tokens as training will see them; about four characters a token where the base is not here."""
    chat = load_chat(base, None, train.chat_template) if base is not None else None

    def count(record: dict[str, Any]) -> int:
        messages = record.get("messages", [])
        if chat is not None and messages:
            found = len(chat.encode(messages))
        else:
            texts = [message["content"] for message in messages] or [record.get("text", "")]
            found = round(sum(map(len, texts)) / CHARACTERS_PER_TOKEN) + TEMPLATE_TOKENS * bool(messages)
        return (
            min(found, int(train.max_length)) if messages else found
        )  # a longer text is split, and nothing of it lost

    return count
