"""Evaluation sets in their publishers' own forms -> rows that decontamination understands.

    for place, row in evaluation_rows(Path("anatomy_test.csv")): ...        a question with options, or {"text": ...}

JSONL, a JSON list or table (PubMedQA's), Parquet, MMLU's CSV without a header. Only the words count here, so a row of a shape that
is not known is the texts in it: too much leaves training rather than too little.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data.records import Dropped
from finetune.sources.mmlu import COLUMNS
from finetune.sources.pubmedqa import TEST_FILE, TRAINING_IDS
from finetune.sources.tables import csv_rows, json_table_rows, rows
from medllama.errors import InputError
from medllama.files import read_json, read_jsonl

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


def evaluation_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of each item. Raises InputError at the first that is broken: nothing of it would be looked for."""
    if path.suffix == ".jsonl":
        yield from read_jsonl(path)
        return
    for row in _rows(path):
        if isinstance(row, Dropped):
            raise InputError(str(row), hint="--decontaminate takes the files that eval measures")
        yield row[0], _known(row[1])


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]] | Dropped]:
    if path.suffix == ".csv":
        for row in csv_rows(path, columns=COLUMNS):
            yield row if isinstance(row, Dropped) else (row[0], _with_options(row[1]))
    elif path.suffix == ".json" and _is_table(path):
        test_ids, training_ids = _split_of_pubmedqa(path)
        for place, key, value in json_table_rows(path):
            if key not in training_ids and (not test_ids or key in test_ids):
                yield place, value if isinstance(value, dict) else {"value": value}
    else:
        yield from rows(path)


def _split_of_pubmedqa(path: Path) -> tuple[set[str], set[str]]:
    """The official test's ids where they lie beside the file, and the ids that train: half of PubMedQA's one file is no test."""
    beside = path.with_name(TEST_FILE)
    return set(read_json(beside)) if beside.is_file() else set(), set(TRAINING_IDS.read_text(encoding="ascii").split())


def _with_options(cells: dict[str, str]) -> dict[str, Any]:
    return {**cells, "options": {letter: cells[letter] for letter in "ABCD"}, "answer": cells["answer"].strip()}


def _is_table(path: Path) -> bool:
    """Whether a JSON file is one object of rows by their ids, and not one row a line."""
    with path.open(encoding="utf-8-sig") as file:
        line = next((line for line in file if line.strip()), "")
    try:
        first = json.loads(line)
    except json.JSONDecodeError:
        return line.lstrip().startswith("{")
    return isinstance(first, dict) and bool(first) and all(isinstance(value, dict) for value in first.values())


def _known(row: dict[str, Any]) -> dict[str, Any]:
    """The row where it has a question with a table of options; else the texts in it, one behind another."""
    if isinstance(row.get("options"), dict) and isinstance(row.get("question"), str):
        return row
    return {**{key: row[key] for key in ("document_id", "id") if key in row}, "text": "\n".join(_texts(row))}


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
