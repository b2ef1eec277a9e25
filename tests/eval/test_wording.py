"""The benchmarks are asked in lm-evaluation-harness's words, written out here by hand from its task files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eval.benchmark_tasks import open_task
from eval.prompts import Encoder
from eval.tasks import Question
from eval.wording import WORDINGS, wording_of
from medllama.gguf_metadata import read_gguf_metadata
from tests.eval.test_formats import MEDMCQA, MEDQA, PUBMEDQA, write_lines, write_mmlu

ROWS: dict[str, Any] = {"medqa": MEDQA, "medmcqa": MEDMCQA, "pubmedqa": PUBMEDQA}
EXPECTED = {
    "medqa": "Question: A man has a swollen toe. What is it?\nA. Flu\nB. Gout\nC. Burn\nD. Cut\nAnswer:",
    "medmcqa": "Question: Which is a joint?\nChoices:\nA. Knee\nB. Liver\nC. Lung\nD. \nAnswer:",
    "pubmedqa": "Abstract: We tried.\nIt did.\nQuestion: Does it help?\nAnswer:",
}
ANSWERS = {"medqa": ["A", "B", "C", "D"], "medmcqa": ["A", "B", "C", "D"], "pubmedqa": ["yes", "no", "maybe"]}


@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_question_is_in_the_harness_words(name: str, tmp_path: Path) -> None:
    task = open_task(f"{name}:{write_lines(tmp_path / 'test.jsonl', ROWS[name])}")
    form, wording = wording_of(task, "auto", "auto")
    assert (form, wording) == ("plain", WORDINGS[name])
    (question,) = task.records
    assert isinstance(question, Question)
    assert wording.ask(question) == EXPECTED[name]
    assert wording.answers(question) == ANSWERS[name]


def test_five_shots_of_mmlu_are_in_the_harness_words(ggufs: dict[str, Path], tmp_path: Path) -> None:
    for split in ("test", "dev"):
        write_mmlu(tmp_path / split, split)
    task = open_task(f"mmlu-medical:{tmp_path / 'test'}", shots=1)
    metadata = read_gguf_metadata(ggufs["model"])
    encoder = Encoder(task, WORDINGS["mmlu-medical"], "plain", metadata.tokenizer, metadata.chat)
    question = task.records[2]
    assert isinstance(question, Question)
    options = "A. A bone\nB. A muscle\nC. A nerve\nD. A vein\nAnswer:"
    expected = (
        "The following are multiple choice questions (with answers) about college medicine.\n\n"
        f"college_medicine dev: What is the hyoid?\n{options} A\n\ncollege_medicine test: What is the hyoid?\n{options}"
    )
    assert encoder.plain_text(question) == expected
    for letter, answer in zip("ABCD", encoder.encode(question), strict=True):
        labels = [label for label in answer.labels if label >= 0]
        assert metadata.tokenizer.decode(labels).strip() == letter
        assert metadata.tokenizer.decode(answer.input_ids).strip() == f"{expected} {letter}".strip()


def test_examples_are_turns_of_a_chat_and_their_answers_are_not_scored(ggufs: dict[str, Path], tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", MEDQA | {"question": "An example?"})
    task = open_task(f"medqa:{write_lines(tmp_path / 'test.jsonl', MEDQA)}", shots=1)
    metadata = read_gguf_metadata(ggufs["model"])
    encoder = Encoder(task, WORDINGS["medqa"], "chat", metadata.tokenizer, metadata.chat)
    question = task.records[0]
    assert isinstance(question, Question)
    assert [message["role"] for message in encoder.messages(question)] == ["user", "assistant", "user"]
    assert encoder.messages(question)[1]["content"] == "B"
    for letter, answer in zip("ABCD", encoder.encode(question), strict=True):
        labels = [label for label in answer.labels if label >= 0]
        assert metadata.tokenizer.decode(labels).strip() == letter
        assert answer.labels.index(labels[0]) > len(answer.labels) - 5, "the example's answer has no labels"
