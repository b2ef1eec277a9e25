"""The field's multiple-choice benchmarks by name, from their official files or, without a path, from the Hugging Face hub.

    medllama eval --gguf FILE --task medqa:questions/US/4_options/phrases_no_exclude_test.jsonl --output results.json
    medllama eval --gguf FILE --task mmlu-medical:mmlu/test --shots 5 --output results.json
    medllama eval --gguf FILE --task pubmedqa:ori_pqal.json?shots=dev.json --task medmcqa --output results.json

`NAME:PATH` is a file in the benchmark's own format (eval/formats.py), or the folder that holds it. Examples for `--shots` are the
first rows of `?shots=PATH`, else of the file of the same name for development or training beside it (`..._dev.csv`, `train.jsonl`):
always the same ones, so that they are computed once. What is no known name is a JSONL of records (eval/tasks.py).

PubMedQA's official test is 500 of 1,000 items: those that `test_ground_truth.json` names, where it lies beside the file.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from eval import formats
from eval.hub import rows_of_hub
from eval.tasks import Question, Task, content_sha256, read_task
from medllama import progress
from medllama.benchmarks import ON_HUB
from medllama.errors import InputError
from medllama.files import read_json, read_jsonl, read_text, sha256_file

MMLU_SUBJECTS = (
    "anatomy", "clinical_knowledge", "college_biology", "college_medicine", "medical_genetics", "professional_medicine",
)  # fmt: skip
SPLITS = ("test", "val", "validation", "dev")  # what a folder is searched for, in this order
EXAMPLE_SPLITS = ("dev", "train", "validation", "val")
GROUND_TRUTH = "test_ground_truth.json"
SUFFIXES = (".jsonl", ".json", ".csv")
Rows = list[tuple[str, dict[str, Any]]]  # each with its place, `file:line`


def open_task(text: str, shots: int = 0) -> Task:
    """The task that `NAME[:PATH][?shots=PATH]` or a file of records means, with `shots` examples for each subject.

    Raises InputError with file and line for what is no row of it, and where there are no examples.
    """
    name, _, rest = text.partition(":")
    if name not in formats.READERS and not Path(text.partition("?")[0]).exists():
        known = ", ".join(formats.READERS)
        raise InputError(
            f"there is no file {text.partition('?')[0]}", hint=f"name a file, or NAME:PATH, NAME being {known}"
        )
    if name not in formats.READERS and "?" not in text:
        task = read_task(Path(text))
        return _with_examples(task, "", shots) if shots else task
    place, _, query = (rest if name in formats.READERS else text).partition("?")
    key, _, examples = query.partition("=")
    if query and (key != "shots" or not examples):
        raise InputError(f"{text}: {query} is not understood", hint="after the question mark stands shots=PATH")
    if name not in formats.READERS:
        return _with_examples(read_task(Path(place)), examples, shots)
    if not place:
        return _of_hub(name, shots)
    files = official_files(name, Path(place))
    records, digest = _read(name, files)
    return _with_examples(Task(name, Path(place), digest, records, name), examples, shots)


def official_files(name: str, path: Path) -> list[Path]:
    """The file itself; of a folder the files of its test split, else of what it has."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path} does not exist", hint=f"name the official file of {name}, or its folder")
    if name == "mmlu-medical":
        for split in SPLITS:
            for folder in (path, path / split):
                found = [file for subject in MMLU_SUBJECTS if (file := folder / f"{subject}_{split}.csv").is_file()]
                if found:
                    return _all_subjects(found, split)
    if name == "pubmedqa" and (path / "ori_pqal.json").is_file():
        return [path / "ori_pqal.json"]
    for split in SPLITS:
        found = [file for file in sorted(path.iterdir()) if file.suffix in SUFFIXES and split in file.stem.split("_")]
        if len(found) == 1:
            return found
    raise InputError(f"{path} has no single file of {name}'s test", hint="name the file itself")


def _all_subjects(found: list[Path], split: str) -> list[Path]:
    missing = [subject for subject in MMLU_SUBJECTS if f"{subject}_{split}.csv" not in {file.name for file in found}]
    if missing:
        progress.message(f"warning: {found[0].parent} has no {', '.join(missing)}: mmlu-medical is without")
    return found


def _read(name: str, files: list[Path], *, for_test: bool = True) -> tuple[tuple[Question, ...], str]:
    """The questions of official files, and the digest of the files."""
    records: list[Question] = []
    for file in files:
        records += questions(name, rows_of_file(file), _subject(file))
    if name == "pubmedqa" and for_test:
        records = _official_test(records, files[0].parent)
    if not records:
        raise InputError(f"{files[0]} has no items", hint=f"is it the official file of {name}?")
    return tuple(records), _digest(files)


def questions(name: str, rows: Rows, subject: str = "", is_hub: bool = False) -> list[Question]:
    """The rows as questions. Raises InputError with the place of one that is none."""
    read: Callable[..., Question] = formats.READERS[name]
    place = rows[0][0] if rows else name
    try:
        if name == "medmcqa" and rows:
            read = partial(read, first=formats.first_of_cop([row for _, row in rows], place, is_hub))
        if name == "mmlu-medical":
            read = partial(read, subject=subject)
        found = []
        for place, row in rows:
            found.append(read(row, place))
    except ValueError as error:
        raise InputError(f"{place}: {error}", hint=f"is it the official file of {name}?") from None
    return found


def rows_of_file(path: Path) -> Rows:
    """The rows of JSONL, of a JSON list or table of rows, or of MMLU's CSV."""
    if path.suffix == ".csv":
        return _rows_of_csv(path)
    if path.suffix == ".json" and not _is_lines(path):
        value = read_json(path)
        pairs: Iterable[tuple[str, Any]] = (
            ((f"{key}", row) for key, row in value.items())
            if isinstance(value, dict)
            else ((f"{path}: row {number}", row) for number, row in enumerate(value, start=1))
            if isinstance(value, list)
            else ()
        )
        rows = list(pairs)
        if not rows or not all(isinstance(row, dict) for _, row in rows):
            raise InputError(f"{path} holds no rows", hint="a list or a table of objects is expected")
        return rows
    return list(read_jsonl(path))


def _is_lines(path: Path) -> bool:
    """MedMCQA's own `.json` files are JSONL: an object ends with the first line."""
    with path.open("rb") as file:
        first, second = file.readline().strip().removeprefix(codecs.BOM_UTF8), file.readline().strip()
    return first.startswith(b"{") and first.endswith(b"}") and bool(second)


def _rows_of_csv(path: Path) -> Rows:
    """Every row with the line on which it ends; empty lines are nothing."""
    lines = csv.reader(io.StringIO(read_text(path, newline=""), newline=""))
    try:
        return [(f"{path}:{lines.line_num}", _mmlu_row(cells)) for cells in lines if cells]
    except csv.Error as error:
        raise InputError(
            f"{path}:{lines.line_num} is not CSV: {error}", hint="is it the official file of MMLU?"
        ) from None


def _mmlu_row(cells: list[str]) -> dict[str, Any]:
    return {"question": cells[0], "choices": cells[1:-1], "answer": cells[-1]} if len(cells) > 2 else {}


def _subject(file: Path) -> str:
    """`college_medicine` of `college_medicine_test.csv`."""
    name, _, split = file.stem.rpartition("_")
    return name if split in {*SPLITS, *EXAMPLE_SPLITS} else file.stem


def _official_test(records: list[Question], folder: Path) -> list[Question]:
    truth = folder / GROUND_TRUTH
    if truth.is_file():
        official = read_json(truth)
        if not isinstance(official, dict):
            raise InputError(f"{truth} is no table of answers by name", hint="copy PubMedQA's own")
        chosen = [record for record in records if record.document_id in official]
        if chosen:
            return chosen
    elif len(records) == 1000:
        progress.message(f"warning: all 1,000 items of PubMedQA: put {GROUND_TRUTH} beside them for the official 500")
    return records


def _of_hub(name: str, shots: int) -> Task:
    rows, example_rows, revision = rows_of_hub(name, with_examples=shots > 0)
    records = [it for subject, its in rows.items() for it in questions(name, its, subject, is_hub=True)]
    examples = [it for subject, its in example_rows.items() for it in questions(name, its, subject, is_hub=True)]
    digest = hashlib.sha256("".join(record.record_id for record in records).encode()).hexdigest()
    origin = Path(f"{ON_HUB[name].repository}@{revision}")
    task = Task(name, origin, digest, tuple(records), name)
    return _take(task, examples, shots, origin, digest) if shots else task


def _with_examples(task: Task, named: str, shots: int) -> Task:
    """The task with the first examples of each of its subjects."""
    if not shots:
        return task
    if task.kind != "multiple_choice":
        return task
    files = [Path(named)] if named else example_files(task)
    if named and task.benchmark:
        files = official_files(task.benchmark, Path(named))
    if not files:
        raise InputError(
            f"there are no examples for --shots beside {task.path}",
            hint=f"name their file: --task '{task.benchmark + ':' if task.benchmark else ''}{task.path}?shots=FILE'",
        )
    records = _read(task.benchmark, files, for_test=False)[0] if task.benchmark else _questions_of(read_task(files[0]))
    return _take(task, list(records), shots, files[0], _digest(files))


def _questions_of(task: Task) -> tuple[Question, ...]:
    found = tuple(record for record in task.records if isinstance(record, Question))
    if not found:
        raise InputError(f"{task.path} holds no multiple-choice items", hint="examples are answered questions")
    return found


def _take(task: Task, pool: list[Question], shots: int, origin: Path, digest: str) -> Task:
    """The first `shots` of the pool, of each subject where the task's wording is by subject; none is an item of the test."""
    tested = {content_of(record) for record in task.records if isinstance(record, Question)}
    pool = [record for record in pool if content_of(record) not in tested]
    subjects = sorted({record.subject for record in task.records}) if task.benchmark == "mmlu-medical" else [None]
    chosen: list[Question] = []
    for subject in subjects:
        its = [record for record in pool if subject in (None, record.subject)][:shots]
        if len(its) < shots:
            of = f" of {subject}" if subject else ""
            raise InputError(
                f"{origin} has {len(its)} examples{of} that are not tested, not {shots}",
                hint="lower --shots" if its else "name another file: ?shots=FILE",
            )
        chosen += its
    return Task(task.name, task.path, task.sha256, task.records, task.benchmark, tuple(chosen), digest)


def content_of(question: Question) -> str:
    """What tells a question from another: its words and those of its options."""
    return content_sha256({"question": question.question, "options": question.options, "context": question.context})


def example_files(task: Task) -> list[Path]:
    """The files beside the task's own that have its name with another split in it."""
    files = official_files(task.benchmark, task.path) if task.path.is_dir() else [task.path]
    for split in EXAMPLE_SPLITS:
        found = [other for file in files if (other := _counterpart(file, split)) is not None]
        if len(found) == len(files):
            return found
    return []


def _counterpart(file: Path, split: str) -> Path | None:
    for own in SPLITS:
        if own == split or own not in file.stem.split("_"):
            continue
        name = "_".join(split if part == own else part for part in file.stem.split("_")) + file.suffix
        for folder in (file.parent, file.parent.parent / split):
            if (folder / name).is_file():
                return folder / name
    return None


def _digest(files: list[Path]) -> str:
    """A file's SHA-256; of several, that of their names and digests."""
    if len(files) == 1:
        return sha256_file(files[0])
    return hashlib.sha256("".join(f"{file.name}\0{sha256_file(file)}\n" for file in files).encode()).hexdigest()
