"""What eval measures, in its publishers' own forms -> rows that decontamination understands.

    measured = EvaluationSets.of(("medqa:test.jsonl", "mmlu-medical:mmlu/test", "medmcqa", "hf:owner/name?split=test"))
    for name, rows in measured.rows(): ...       each row a question with options, or {"text": ...}
    measured.absent                              {"medmcqa": "why nothing of it can be had here"}

A task is named as eval names it: a file or folder, with or without the benchmark's name before it, or the name alone, which is then
taken from the hub, as is `hf:DATASET?config=NAME&split=NAME`. Of a folder everything counts but files for training.

JSONL, a JSON list or table (PubMedQA's), Parquet, MMLU's CSV without a header. Only the words count here, so a row of a shape that
is not known is the texts in it: too much leaves training rather than too little.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.data.records import Dropped
from finetune.sources import SourceRequest, parse
from finetune.sources.hf import hub_rows
from finetune.sources.mmlu import COLUMNS
from finetune.sources.pubmedqa import TEST_FILE, TRAINING_IDS
from finetune.sources.tables import csv_rows, json_table_rows, rows
from medllama.benchmarks import ON_HUB, first_of_cop
from medllama.errors import InputError
from medllama.files import read_json, read_jsonl

NO_TEST = re.compile(r"train|ground_truth")  # files of a folder that hold nothing that is measured
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
QUESTIONS = ("question", "QUESTION", "sent1")  # what publishers call it


@dataclass(frozen=True)
class EvaluationSets:
    """Files that are here, rows of the hub by the name of their task, and the tasks of which nothing can be had, with why."""

    files: list[Path] = field(default_factory=list)
    on_hub: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, tasks: tuple[str, ...]) -> EvaluationSets:
        """Look for each task. Raises InputError for a file that is not there."""
        sets = cls()
        for task in tasks:
            path = Path(task) if Path(task).exists() else Path((task.partition(":")[2] or task).partition("?")[0])
            is_file = path.suffix in SUFFIXES and not task.startswith("hf:")
            if is_file and not path.is_file():
                raise InputError(f"{path} does not exist", hint="--decontaminate takes the files that eval measures")
            if is_file:
                sets.files.append(path)
            elif path.is_dir() and not task.startswith("hf:"):
                found = [each for each in path.rglob("*") if each.suffix in SUFFIXES and not NO_TEST.search(each.name)]
                sets.files.extend(sorted(found))
                sets.absent.update({} if found else {task: f"{path} holds no {', '.join(SUFFIXES)}"})
            else:
                try:
                    sets.on_hub[task] = [row for request in _on_hub(task) for row in _rows_of_hub(request)]
                except (InputError, ValueError) as error:
                    sets.absent[task] = getattr(error, "message", str(error))
        return sets

    def rows(self) -> Iterator[tuple[str, Iterable[tuple[str, dict[str, Any]]]]]:
        """(name of the set, its rows with their places)"""
        for path in self.files:
            yield str(path), evaluation_rows(path)
        for task, found in self.on_hub.items():
            first = _first_of_cop(found, task, is_hub=True)
            yield task, [(str(number), _known(row, first)) for number, row in enumerate(found, start=1)]


def _on_hub(task: str) -> list[SourceRequest]:
    """The data sets of the hub that a task is made of. Raises ValueError for a name that is none."""
    if task.startswith("hf:"):
        return [parse(task if "split=" in task else f"{task}{'&' if '?' in task else '?'}split=test")]
    place = ON_HUB.get(task.partition("?")[0])
    if place is None:
        raise ValueError(f"{task} is neither a file here nor a benchmark of {', '.join(ON_HUB)}")
    return [
        parse(f"hf:{place.repository}?split={place.test}" + (f"&config={configuration}" if configuration else ""))
        for configuration in place.configurations
    ]


def _rows_of_hub(request: SourceRequest) -> Iterator[dict[str, Any]]:
    for row in hub_rows(request):
        if isinstance(row, Dropped):
            raise InputError(str(row))
        yield row[1]


def evaluation_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of each item. Raises InputError at the first that is broken: nothing of it would be looked for."""
    if path.suffix == ".jsonl":
        first = _first_of_cop((row for _, row in read_jsonl(path)), str(path))
        for place, row in read_jsonl(path):
            yield place, _as_question(row, first) or row
        return
    first = _first_of_cop((row[1] for row in _rows(path) if not isinstance(row, Dropped)), str(path))
    for found in _rows(path):
        if isinstance(found, Dropped):
            raise InputError(str(found), hint="--decontaminate takes the files that eval measures")
        yield found[0], _known(found[1], first)


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


def _known(row: dict[str, Any], first: int) -> dict[str, Any]:
    """The row as a question where it has one; else the texts in it, one behind another."""
    return _as_question(row, first) or {**_identity(row), "text": "\n".join(_texts(row))}


def _as_question(row: dict[str, Any], first: int) -> dict[str, Any] | None:
    """The question of a row with its right answer, and whatever else is said there, each by itself; None where it has none."""
    if isinstance(row.get("options"), dict) and isinstance(row.get("question"), str):
        return row
    asked = next((key for key in QUESTIONS if isinstance(row.get(key), str)), None)
    if asked is None:
        return None
    texts = [text for key, value in row.items() if key != asked for text in _texts(value)]
    others = {f"text {number}": text for number, text in enumerate(texts)}
    return {**_identity(row), "question": row[asked], "options": others, "answer": _right_answer(row, first)}


def _right_answer(row: dict[str, Any], first: int) -> str:
    """What the columns of MedMCQA, of MMLU and MedQA on the hub, or `answer` tell; empty where they tell nothing."""
    answer, choices = row.get("answer"), row.get("choices")
    if isinstance(choices, list) and isinstance(answer, int) and 0 <= answer < len(choices):
        return str(choices[answer])
    options = {str(number): row.get(f"op{letter}") for number, letter in enumerate("abcd", first)}
    found = options.get(str(row.get("cop"))) or row.get(f"ending{row.get('label')}") or answer
    return found if isinstance(found, str) else ""


def _first_of_cop(rows: Iterable[dict[str, Any]], place: str, *, is_hub: bool = False) -> int:
    """What `cop` of MedMCQA calls the first option, as eval will read it: only of rows that have MedMCQA's options."""
    try:
        return first_of_cop((row.get("cop") for row in rows if "opa" in row), place, is_hub=is_hub)
    except ValueError as error:
        raise InputError(f"{place}: {error}", hint="--decontaminate takes the files that eval measures") from None


def _identity(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("document_id", "id") if key in row}


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
