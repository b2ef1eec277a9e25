"""A row of somebody's table as a record: what jsonl, csv and hf have in common.

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
    {"prompt": "...", "response": "..."}        also instruction (and input) / output, and question / answer
    {"text": "..."}
    {"question": "...", "options": {"A": "...", "B": "..."}, "answer": "A"}

A row may also have `system` (a system message), and `source`, `document_id` and `licence`, so that what prepare wrote
can be read again. Without a document id, rows that begin with the same question are one document: answers to a
question that is tested are not trained on. A multiple-choice row goes to the multiple-choice test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from finetune.data.licences import canonical
from finetune.data.records import (
    NO_LICENCE,
    Dropped,
    Malformed,
    Record,
    checked_text,
    conversation,
    multiple_choice,
    plain_text,
)  # fmt: skip
from finetune.sources import SourceRequest
from finetune.sources.tables import Rows

QUESTION_AND_ANSWER = (("prompt", "response"), ("instruction", "output"), ("question", "answer"))


def records(rows: Rows, request: SourceRequest, name: str) -> Iterator[Record | Dropped]:
    """A Record or a Dropped for each row; `name` is the source where a row names none."""
    for row in rows:
        if isinstance(row, Dropped):
            yield row
            continue
        place, value = row
        try:
            yield record_of(value, request, name)
        except Malformed as error:
            yield Dropped(error.reason, place, error.detail)


def record_of(value: dict[str, Any], request: SourceRequest, name: str) -> Record:
    """The record of one row. Raises Malformed where it has none of the shapes above."""
    content = _content(value)
    licence = optional_text(value, "licence")
    if licence in ("", NO_LICENCE):
        licence = request.stated_licence()
    else:
        try:
            licence = canonical(licence)
        except ValueError as error:
            raise Malformed("malformed licence", str(error)) from None
    return Record(
        content,
        source=optional_text(value, "source") or name,
        document_id=optional_text(value, "document_id") or f"{name}/{_question_hash(content)}",
        licence=licence,
        split="multiple_choice" if "options" in content else None,
    )


def _content(value: dict[str, Any]) -> dict[str, Any]:
    """The content in whichever shape the row has; a row of two shapes is malformed, as either could be meant."""
    # A table (CSV, Parquet) has every column in every row: what is null or empty is not there.
    given = {key for key, cell in value.items() if cell is not None and cell != ""}
    if {"question", "options", "answer"} <= given and isinstance(value["options"], dict):
        options = {str(letter): option for letter, option in value["options"].items() if option is not None}
        return multiple_choice(value["question"], options, value["answer"])
    shapes = _shapes(value, given)
    if not shapes and "text" in given:
        return plain_text(value["text"])
    shapes = shapes or _shapes(value, set(value))
    if not shapes and "text" in value:
        return plain_text(value["text"])
    if not shapes:
        raise Malformed("unknown shape", f"keys {', '.join(map(ascii, list(value)[:6])) or 'none'}")
    if len(shapes) > 1:
        raise Malformed("two shapes in one line", " and ".join("/".join(keys) for keys in shapes))
    if "options" in given:
        raise Malformed(
            "multiple choice", "a question with options needs them as a table of letters, and a letter as answer"
        )
    messages = _messages(value["messages"]) if shapes == [("messages",)] else _turns(value, *shapes[0])
    if system := optional_text(value, "system"):
        messages.insert(0, ("system", system))
    return conversation(messages)


def _shapes(value: dict[str, Any], given: set[str]) -> list[tuple[str, ...]]:
    """The shapes of a conversation that the row has, where `given` are the keys that count."""
    shapes: list[tuple[str, ...]] = [keys for keys in QUESTION_AND_ANSWER if keys[0] in given and keys[1] in value]
    return [*shapes, ("messages",)] if "messages" in given else shapes


def _messages(value: object) -> list[tuple[object, object]]:
    if not isinstance(value, list):
        raise Malformed("messages is not a list")
    for message in value:
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise Malformed("a message without role and content")
    return [(message["role"], message["content"]) for message in value]


def _turns(value: dict[str, Any], question_key: str, answer_key: str) -> list[tuple[object, object]]:
    question = value[question_key]
    if question_key == "instruction" and isinstance(question, str) and (more := optional_text(value, "input")):
        question = f"{question.strip()}\n\n{more}"
    return [("user", question), ("assistant", value[answer_key])]


def optional_text(value: dict[str, Any], key: str) -> str:
    """The text under `key`, empty where there is none. A number is taken for its digits, as ids often are numbers."""
    found = value.get(key)
    if found is None:
        return ""
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    if not isinstance(found, str):
        raise Malformed(f"{key} is not text")
    return checked_text(found).strip()


def required_text(value: dict[str, Any], key: str) -> str:
    """The text under `key`. Raises Malformed where it is missing, no text, or empty."""
    if key not in value:
        raise Malformed(f"no {key}", f"keys {', '.join(map(ascii, list(value)[:6])) or 'none'}")
    if not (found := optional_text(value, key)):
        raise Malformed(f"empty {key}")
    return found


def short_hash(text: str) -> str:
    """A name for a text that has none."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _question_hash(content: dict[str, Any]) -> str:
    """What rows of one document have in common: the first user message, the question, or the text."""
    spoken = [turn["content"] for turn in content.get("messages", ()) if turn["role"] == "user"]
    return short_hash(spoken[0] if spoken else content.get("question") or content["text"])
