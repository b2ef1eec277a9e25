"""`medqa:DIR`: MedQA's questions of medical licensing examinations (MIT), from a folder of its JSONL files or one of them.

    medllama prepare --source medqa:data_clean/questions/US/4_options --output-dir OUT

A line is `question, options {A..}, answer_idx, answer, meta_info`, with four or five options. The files' names tell the split: train
and dev train and validate, as conversations; test (1,273 questions in English) goes to the multiple-choice test. Give one
of the folders `US` and `US/4_options`, not both: they hold the same questions.

Access: free, from the repository of Jin et al.; the examinations' own publishers are named on its page.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data.records import Dropped, Malformed, Record, Split
from finetune.sources import Source, SourceRequest, files_in
from finetune.sources.exams import exam_content
from finetune.sources.official_splits import split_rows
from finetune.sources.rows import required_text, short_hash
from finetune.sources.tables import rows

LICENCE = "MIT"
SPLITS: dict[str, Split] = {
    "train": "train",
    "dev": "validation",
    "validation": "validation",
    "test": "multiple_choice",
}


def read(request: SourceRequest) -> Iterator[Record | Dropped]:
    """A Record or a Dropped for each line of each file."""
    for row in split_rows(inputs(request), SPLITS, rows):
        yield row if isinstance(row, Dropped) else _outcome(*row, request)


def inputs(request: SourceRequest) -> list[Path]:
    """The JSONL (or Parquet) files of one folder, without the folders in it."""
    path = request.required_path()
    found = files_in(request, "*.jsonl", "*.parquet")
    own = [file for file in found if file.parent == path]
    return own or found


def _outcome(place: str, value: dict[str, Any], path: Path, split: Split, request: SourceRequest) -> Record | Dropped:
    try:
        options = value.get("options")
        if not isinstance(options, dict) or not all(isinstance(text, str) for text in options.values()):
            raise Malformed("options is not a table of texts")
        question = required_text(value, "question")
        content = exam_content(question, options, required_text(value, "answer_idx"), split)
    except Malformed as error:
        return Dropped(error.reason, place, error.detail)
    return Record(content, request.kind, f"{request.kind}/{short_hash(question)}", LICENCE, split)


SOURCE = Source(
    example="medqa:DIR",
    read=read,
    inputs=inputs,
    licence=LICENCE,
    attribution=(
        "MedQA: Di Jin et al., What Disease Does This Patient Have? A Large-Scale Open Domain Question Answering Dataset from "
        "Medical Exams, Applied Sciences 11, 6421 (2021), https://doi.org/10.3390/app11146421"
    ),
    url="https://github.com/jind11/MedQA",
)
