"""`medmcqa:DIR`: MedMCQA's questions of Indian medical entrance examinations (Apache-2.0), its files or the hub's.

    medllama prepare --source medmcqa:MedMCQA --output-dir OUT          also medmcqa:dev.json?choice=single

A row is `id, question, opa, opb, opc, opd, cop, choice_type, exp, subject_name, topic_name`: JSONL in train.json, dev.json and
test.json, or the hub's Parquet. `cop`, the right option, counts from 1 in the original and from 0 on the hub; which of the two a
file does is told by a 0 or a 4 in it, and a file with neither is refused unless `?first=0` or `?first=1` says so.

The official test has no labels, so people report on validation: dev goes to the multiple-choice test (4,183 items; with
`?choice=single` the 2,816 whose options stand alone), train trains with its explanations, and test is left out. Access: free.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data.records import Dropped, Malformed, Record, Split
from finetune.sources import Source, SourceRequest, files_in
from finetune.sources.exams import exam_content
from finetune.sources.official_splits import split_rows
from finetune.sources.rows import optional_text, required_text
from finetune.sources.tables import rows
from medllama.benchmarks import first_of_cop
from medllama.errors import InputError

LICENCE = "Apache-2.0"
SPLITS: dict[str, Split] = {
    "train": "train", "dev": "multiple_choice", "validation": "multiple_choice", "test": "multiple_choice",
}  # fmt: skip
COLUMNS = {"A": "opa", "B": "opb", "C": "opc", "D": "opd"}


def read(request: SourceRequest) -> Iterator[Record | Dropped]:
    """A Record or a Dropped for each row of each file."""
    firsts: dict[Path, int] = {}
    for row in split_rows(inputs(request), SPLITS, rows):
        if isinstance(row, Dropped):
            yield row
            continue
        place, value, path, split = row
        if is_unlabelled(value):
            yield Dropped("no label", place, is_bad=False)
            continue
        if path not in firsts:
            firsts[path] = first_option(path, request)
        yield _outcome(place, value, request, split, firsts[path])


def inputs(request: SourceRequest) -> list[Path]:
    return files_in(request, "*.json", "*.jsonl", "*.parquet")


def first_option(path: Path, request: SourceRequest) -> int:
    """The `cop` of option A in this file: 0 or 1."""
    if (given := request.setting("first")) in ("0", "1"):
        return int(given)
    try:
        return first_of_cop((row[1].get("cop") for row in rows(path) if not isinstance(row, Dropped)), str(path))
    except ValueError as error:
        raise InputError(f"{path}: {error}", hint=f"say it: --source {request.kind}:{path}?first=1") from None


def is_unlabelled(value: dict[str, Any]) -> bool:
    """Whether the row is one of the official test's, which has no right option, or -1 on the hub."""
    return value.get("cop") in (None, "", -1, "-1")


def _outcome(place: str, value: dict[str, Any], request: SourceRequest, split: Split, first: int) -> Record | Dropped:
    try:
        if request.setting("choice") and optional_text(value, "choice_type") != request.setting("choice"):
            return Dropped("another choice_type", place, is_bad=False)
        number = optional_text(value, "cop")
        position = int(number) - first if number in ("0", "1", "2", "3", "4") else -1
        if not 0 <= position < len(COLUMNS):
            raise Malformed("cop names no option", number[:20])
        content = exam_content(
            required_text(value, "question"),
            {letter: required_text(value, column) for letter, column in COLUMNS.items()},
            list(COLUMNS)[position],
            split,
            optional_text(value, "exp"),
        )
        identity = required_text(value, "id")
    except Malformed as error:
        return Dropped(error.reason, place, error.detail)
    return Record(content, request.kind, f"{request.kind}/{identity}", LICENCE, split)


SOURCE = Source(
    example="medmcqa:DIR",
    read=read,
    inputs=inputs,
    licence=LICENCE,
    attribution=(
        "MedMCQA: Ankit Pal, Logesh Kumar Umapathi and Malaikannan Sankarasubbu, MedMCQA: A Large-scale Multi-Subject "
        "Multi-Choice Dataset for Medical domain Question Answering, PMLR 174 (2022)"
    ),
    url="https://medmcqa.github.io",
    settings=("choice", "first"),
)
