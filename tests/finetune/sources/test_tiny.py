"""The embedded corpus as a source: split by wording, every fact in training, multiple choice apart."""

from __future__ import annotations

from finetune.data.records import Record
from finetune.sources import parse
from finetune.sources.tiny import read


def test_every_fact_is_trained_on_and_no_held_out_question_is() -> None:
    records = [outcome for outcome in read(parse("tiny")) if isinstance(outcome, Record)]
    by_split = {split: [r for r in records if r.split == split] for split in {r.split for r in records}}
    assert set(by_split) == {"train", "validation", "test", "multiple_choice"}
    facts = {split: {record.document_id for record in found} for split, found in by_split.items()}
    assert facts["train"] == facts["validation"] == facts["test"] >= facts["multiple_choice"]
    questions = {
        split: {record.content["messages"][0]["content"] for record in by_split[split]}
        for split in ("train", "validation", "test")
    }
    assert not questions["train"] & (questions["validation"] | questions["test"])
    assert not questions["train"] & {record.content["question"] for record in by_split["multiple_choice"]}
    assert {(record.source, record.licence) for record in records} == {("tiny", "MIT")}


def test_multiple_choice_items_have_four_options_and_an_answer_among_them() -> None:
    items = [outcome for outcome in read(parse("tiny")) if isinstance(outcome, Record) and "options" in outcome.content]
    assert len(items) >= 400
    for item in items:
        assert list(item.content["options"]) == ["A", "B", "C", "D"]
        assert len(set(item.content["options"].values())) == 4
        assert item.content["answer"] in item.content["options"]
