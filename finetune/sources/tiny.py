"""`tiny`: the embedded corpus, asked in training, validation and held-out wordings, and as multiple choice.

    medllama prepare --source tiny --output-dir OUT

It is split by wording, not by document: every fact is in training, and the test asks for it in words that training does
not have (finetune/data/tiny_corpus.py). So the source gives each record its split itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from finetune.data.records import Dropped, Record, conversation, multiple_choice
from finetune.data.tiny_corpus import Split as Wording
from finetune.data.tiny_corpus import load_facts, load_wordings, render_multiple_choice, render_questions
from finetune.sources import Source, SourceRequest
from medllama.recipe import RECIPES

FACTS, WORDINGS = RECIPES / "tiny" / "facts.tsv", RECIPES / "tiny" / "wordings.yaml"
LICENCE = "MIT"


def read(request: SourceRequest) -> Iterator[Record | Dropped]:
    """Every question of every split, then the multiple-choice test."""
    facts, wordings = load_facts(FACTS), load_wordings(WORDINGS)
    for split in get_args(Wording):
        for question in render_questions(facts, wordings, split=split):
            content = conversation([("user", question.question), ("assistant", question.answer)])
            yield Record(content, request.kind, question.document_id, LICENCE, split)
    for item in render_multiple_choice(facts, wordings):
        content = multiple_choice(item.question, item.options, item.answer)
        yield Record(content, request.kind, item.document_id, LICENCE, "multiple_choice")


def inputs(request: SourceRequest) -> list[Path]:
    return [FACTS, WORDINGS]


SOURCE = Source(
    example="tiny",
    read=read,
    inputs=inputs,
    licence=LICENCE,
    attribution="facts and wordings written and checked for medllama by its contributors",
)
