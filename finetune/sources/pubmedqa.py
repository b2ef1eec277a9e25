"""`pubmedqa:DIR`: PubMedQA's questions on abstracts (MIT), answered yes, no or maybe with the abstract's conclusion.

    medllama prepare --source pubmedqa:pubmedqa/data --output-dir OUT     also pubmedqa:ori_pqal.json?test=test_ground_truth.json

A file is one JSON object, `{pmid: {QUESTION, CONTEXTS[], LABELS[], MESHES[], YEAR, final_decision, LONG_ANSWER}}`. A record asks
the question on its abstract, and answers with the decision and the conclusion; the PubMed id is the document. Sets without a
decision (PQA-U) are answered with the conclusion alone.

**The official test never trains.** Half of the 1,000 labelled items are the test: its ids are keys of `test_ground_truth.json`,
which is taken from the folder, or from where `?test=` says. Without it only the 500 ids known to be training are read
(pubmedqa_training_ids.tsv), and every other item is left out and counted. Access: free.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data.records import Dropped, Malformed, Record, conversation
from finetune.sources import Source, SourceRequest, files_in
from finetune.sources.rows import optional_text, required_text
from finetune.sources.tables import json_table_rows
from medllama.errors import InputError
from medllama.files import expand, read_json

LICENCE = "MIT"
TEST_FILE = "test_ground_truth.json"
TRAINING_IDS = Path(__file__).with_name("pubmedqa_training_ids.tsv")
DECISIONS = ("yes", "no", "maybe")


def read(request: SourceRequest) -> Iterator[Record | Dropped]:
    """A Record or a Dropped for each item of each file."""
    *files, test_file = [*_data_files(request), _test_file(request)]
    test_ids = None if test_file is None else set(_test_ids(test_file))
    training_ids = set(TRAINING_IDS.read_text(encoding="ascii").split())
    for path in files:
        assert path is not None
        for place, pmid, item in json_table_rows(path):
            if test_ids is None and pmid not in training_ids:
                yield Dropped("may be of the official test", place, is_bad=False)
            elif test_ids is not None and pmid in test_ids:
                yield Dropped("official test", place, is_bad=False)
            else:
                yield _outcome(place, pmid, item, request)


def inputs(request: SourceRequest) -> list[Path]:
    """The data files, the official test's where it is known, and the list of training ids."""
    test_file = _test_file(request)
    return [*_data_files(request), *([] if test_file is None else [test_file])]


def _data_files(request: SourceRequest) -> list[Path]:
    files = [file for file in files_in(request, "*.json") if file.name != TEST_FILE]
    if not files:
        raise InputError(f"{request.path} holds nothing but the official test", hint="add ori_pqal.json beside it")
    return files


def _test_file(request: SourceRequest) -> Path | None:
    path = request.required_path()
    if given := request.setting("test"):
        if not (file := expand(given)).is_file():
            raise InputError(f"{file} does not exist", hint="?test= is the official test_ground_truth.json")
        return file
    beside = sorted(path.rglob(TEST_FILE)) if path.is_dir() else [path.with_name(TEST_FILE)]
    return next((file for file in beside if file.is_file()), None)


def _test_ids(path: Path) -> list[str]:
    """The keys of the official file: PubMed ids. A file of another shape would let the test into training."""
    value = read_json(path)
    if not isinstance(value, dict) or not value or not all(key.isdigit() for key in value):
        raise InputError(
            f"{path} is not the official test of PubMedQA", hint="expected an object whose keys are PubMed ids"
        )
    return list(value)


def _outcome(place: str, pmid: str, item: Any, request: SourceRequest) -> Record | Dropped:
    try:
        if not isinstance(item, dict):
            raise Malformed("not an object")
        contexts = item.get("CONTEXTS")
        if not isinstance(contexts, list) or not all(isinstance(context, str) for context in contexts):
            raise Malformed("CONTEXTS is not a list of texts")
        labels = item.get("LABELS")
        named = isinstance(labels, list) and len(labels) == len(contexts) and all(isinstance(it, str) for it in labels)
        headings = [f"{label.capitalize()}: " for label in labels] if named and labels else [""] * len(contexts)
        abstract = "\n".join(heading + context.strip() for heading, context in zip(headings, contexts, strict=True))
        decision = optional_text(item, "final_decision").lower()
        if decision and decision not in DECISIONS:
            raise Malformed("final_decision is none of yes, no, maybe", ascii(decision)[:40])
        conclusion = required_text(item, "LONG_ANSWER")
        content = conversation(
            [
                ("user", f"{abstract}\n\n{required_text(item, 'QUESTION')}".strip()),
                ("assistant", f"{decision.capitalize()}. {conclusion}" if decision else conclusion),
            ]
        )
    except Malformed as error:
        return Dropped(error.reason, place, error.detail)
    return Record(content, request.kind, f"PMID{pmid}", LICENCE)


SOURCE = Source(
    example="pubmedqa:DIR",
    read=read,
    inputs=inputs,
    licence=LICENCE,
    attribution=(
        "PubMedQA: Qiao Jin et al., PubMedQA: A Dataset for Biomedical Research Question Answering, EMNLP-IJCNLP 2019, "
        "https://doi.org/10.18653/v1/D19-1259; abstracts from PubMed, courtesy of the U.S. National Library of Medicine"
    ),
    url="https://pubmedqa.github.io",
    settings=("test",),
)
