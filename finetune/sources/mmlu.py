"""`mmlu:DIR`: the six medical subjects of MMLU (MIT), for the multiple-choice test; nothing of it ever trains.

    medllama prepare --source mmlu:data --source jsonl:chats.jsonl --output-dir OUT          also mmlu:data?split=val

A file is CSV without a header: the question, options A to D, the right letter. Its name is SUBJECT_SPLIT.csv. Of `test`, `val` and
`dev` the first that the folder has is read: people report on test, val serves where that is not at hand, and dev is five
examples a subject to show before a question. Access: free.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from finetune.data.records import Dropped, Malformed, Record, multiple_choice
from finetune.sources import Source, SourceRequest, files_in
from finetune.sources.rows import short_hash
from finetune.sources.tables import csv_rows
from medllama.errors import InputError

LICENCE = "MIT"
SUBJECTS = (
    "anatomy", "clinical_knowledge", "college_biology", "college_medicine", "medical_genetics", "professional_medicine",
)  # fmt: skip
SPLITS = ("test", "val", "dev")
COLUMNS = ("question", "A", "B", "C", "D", "answer")


def read(request: SourceRequest) -> Iterator[Record | Dropped]:
    """A Record or a Dropped for each row of the six subjects' files."""
    for path in inputs(request):
        subject = path.stem.rpartition("_")[0]
        for row in csv_rows(path, columns=COLUMNS):
            if isinstance(row, Dropped):
                yield row
                continue
            place, cells = row
            try:
                options = {letter: cells[letter] for letter in "ABCD"}
                content = multiple_choice(cells["question"], options, cells["answer"].strip())
            except Malformed as error:
                yield Dropped(error.reason, place, error.detail)
                continue
            document_id = f"{subject}/{short_hash(content['question'])}"
            yield Record(content, request.kind, document_id, LICENCE, "multiple_choice")


def inputs(request: SourceRequest) -> list[Path]:
    """The files of the medical subjects in the split that is asked for, or the first that is there."""
    path, asked = request.required_path(), request.setting("split")
    found = files_in(request, "*.csv")
    for split in (asked,) if asked else SPLITS:
        chosen = [file for file in found if file.stem in {f"{subject}_{split}" for subject in SUBJECTS}]
        if chosen:
            return chosen
    raise InputError(
        f"{path} holds no {asked or 'test'} file of a medical subject of MMLU",
        hint=f"expected names like anatomy_{asked or 'test'}.csv; ?split= is one of {', '.join(SPLITS)}",
    )


SOURCE = Source(
    example="mmlu:DIR",
    read=read,
    inputs=inputs,
    licence=LICENCE,
    attribution=(
        "MMLU: Dan Hendrycks et al., Measuring Massive Multitask Language Understanding, ICLR 2021, "
        "https://arxiv.org/abs/2009.03300"
    ),
    url="https://github.com/hendrycks/test",
    settings=("split",),
)
