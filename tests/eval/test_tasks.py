"""Every record of a task is one, or the error names file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eval.tasks import Passage, Question, read_task
from medllama.errors import InputError

ITEM = {
    "question": "Gout?",
    "options": {"A": "Joints", "B": "Skin"},
    "answer": "A",
    "document_id": "condition/gout/organ",
}
CHAT = {"messages": [{"role": "user", "content": "Gout?"}, {"role": "assistant", "content": "Joints."}]}


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_what_prepare_writes_is_read(tmp_path: Path) -> None:
    task = read_task(write(tmp_path / "medqa.jsonl", ITEM | {"sha256": "abc", "licence": "MIT"}, "", ITEM))
    assert (task.name, task.kind, len(task.sha256)) == ("medqa", "multiple_choice", 64)
    first, second = task.records
    assert isinstance(first, Question)
    assert (first.record_id, first.document_id, first.subject) == ("abc", "condition/gout/organ", "condition")
    assert first.options == ITEM["options"]
    assert len(second.record_id) == 64


def test_an_empty_field_is_as_good_as_none(tmp_path: Path) -> None:
    (record,) = read_task(
        write(tmp_path / "t.jsonl", ITEM | {"document_id": None, "source": None, "context": None})
    ).records
    assert (record.document_id, record.subject) == (f"{tmp_path / 't.jsonl'}:1", "")


def test_conversations_and_texts_are_one_task(tmp_path: Path) -> None:
    task = read_task(write(tmp_path / "test.jsonl", CHAT | {"source": "tiny"}, {"text": "Gout.", "document_id": "a"}))
    chat, text = task.records
    assert task.kind == "perplexity"
    assert isinstance(chat, Passage)
    assert isinstance(text, Passage)
    assert (chat.subject, chat.messages[1]["content"], text.text) == ("tiny", "Joints.", "Gout.")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"question": ', "not JSON"),
        ('{"question": "\\ud800"}', "not JSON"),
        ("[1]", "not a JSON object"),
        ({"prompt": "Gout?"}, "neither options, messages nor text, but prompt"),
        (ITEM | {"question": " "}, "question is no text"),
        (ITEM | {"options": {"A": "Joints"}}, "options is no table of 2 to 26 texts"),
        (ITEM | {"options": ["Joints", "Skin"]}, "options is no table"),
        (ITEM | {"options": {"A": "Joints", "B": ""}}, "option B is no text but ''"),
        (ITEM | {"answer": "C"}, "the answer 'C' is none of the options A, B"),
        (ITEM | {"answer": ["A"]}, "is none of the options"),
        (CHAT, "mixed"),
    ],
)
def test_a_malformed_line_is_named(line: Any, said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "task.jsonl", ITEM, line)
    with pytest.raises(InputError) as caught:
        read_task(path)
    assert caught.value.message.startswith(f"{path}:2")
    assert said in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ("Gout?", "no list of tables"),
        ([{"role": "doctor", "content": "Gout?"}], "no list of tables"),
        ([{"role": "user", "content": "Gout?"}], "no answer of an assistant"),
    ],
)
def test_a_malformed_conversation_is_named(messages: Any, said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "task.jsonl", {"messages": messages})
    with pytest.raises(InputError, match=said):
        read_task(path)


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_task_is_refused(text: str, tmp_path: Path) -> None:
    path = write(tmp_path / "task.jsonl", text)
    with pytest.raises(InputError, match=r"task\.jsonl has no records"):
        read_task(path)
