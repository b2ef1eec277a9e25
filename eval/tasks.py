"""What a task is made of, and the JSONL that holds one: multiple-choice items, or conversations and texts to be likely.

    {"question": "...", "options": {"A": "...", "B": "..."}, "answer": "B", "document_id": "drug/aspirin/class"}
    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}], "document_id": "..."}
    {"text": "...", "document_id": "..."}

These are what `medllama prepare` writes; the field's own benchmarks are read by eval/benchmark_tasks.py. `document_id` says which
records are about the same thing (the line stands in for it); what precedes its first "/" is the record's subject. A record is
known by its SHA-256, so that it keeps its name in another order. An item may have a `context` to read before its question.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medllama.errors import InputError
from medllama.files import read_jsonl, sha256_file

HINT = "a task is JSONL of question, options and answer, or of messages; medllama prepare writes both"
OPTIONS_HINT = 'for example {"question": "...", "options": {"A": "...", "B": "..."}, "answer": "B"}'
MOST_OPTIONS = 26
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Record:
    """What every record has."""

    record_id: str
    document_id: str
    subject: str


@dataclass(frozen=True)
class Question(Record):
    """A multiple-choice item; `answer` is a key of `options`, `context` what is to be read before the question."""

    question: str
    options: dict[str, str]
    answer: str
    context: str = ""


@dataclass(frozen=True)
class Passage(Record):
    """A conversation, or a text where `messages` is empty."""

    messages: tuple[dict[str, str], ...]
    text: str


@dataclass(frozen=True)
class Task:
    """What was read; its records are all of one kind. `benchmark` names the field's task that this is, if it is one; `examples`
    are answered questions that may stand before the others, and `examples_sha256` the digest of their file."""

    name: str
    path: Path
    sha256: str
    records: tuple[Question, ...] | tuple[Passage, ...]
    benchmark: str = ""
    examples: tuple[Question, ...] = ()
    examples_sha256: str | None = None

    @property
    def kind(self) -> Literal["multiple_choice", "perplexity"]:
        return "multiple_choice" if isinstance(self.records[0], Question) else "perplexity"


def read_task(path: Path) -> Task:
    """Read a task. Raises InputError with file and line for what is no record of one."""
    records: list[Any] = []
    for place, value in read_jsonl(path, HINT):
        record = _record(value, place)
        if records and type(record) is not type(records[0]):
            raise InputError(
                f"{place}: multiple-choice items and conversations are mixed", hint="put them into two files"
            )
        records.append(record)
    if not records:
        raise InputError(f"{path} has no records", hint=HINT)
    return Task(path.stem, path, sha256_file(path), tuple(records))


def _record(value: dict[str, Any], place: str) -> Question | Passage:
    subject, slash, _ = str(value.get("document_id") or "").partition("/")
    known = Record(
        record_id=str(value.get("sha256") or content_sha256(value)),
        document_id=str(value.get("document_id") or place),
        subject=subject if slash else str(value.get("source") or ""),
    )
    if "options" in value:
        return _question(value, known, place)
    if "messages" in value or "text" in value:
        return _passage(value, known, place)
    raise InputError(f"{place}: neither options, messages nor text, but {', '.join(value) or 'nothing'}", hint=HINT)


def content_sha256(value: dict[str, Any]) -> str:
    """The SHA-256 of what a record says, without where it comes from."""
    keys = ("question", "options", "answer", "context", "messages", "text")
    content = {key: value[key] for key in keys if key in value}
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _question(value: dict[str, Any], known: Record, place: str) -> Question:
    question, options, answer = (value.get(key) for key in ("question", "options", "answer"))
    if not _is_text(question):
        raise InputError(f"{place}: question is no text", hint=HINT)
    if not isinstance(options, dict) or not 2 <= len(options) <= MOST_OPTIONS:
        raise InputError(f"{place}: options is no table of 2 to {MOST_OPTIONS} texts", hint=OPTIONS_HINT)
    if wordless := [letter for letter, text in options.items() if not _is_text(text)]:
        raise InputError(f"{place}: option {wordless[0]} is no text but {options[wordless[0]]!r}", hint=OPTIONS_HINT)
    if not isinstance(answer, str) or answer not in options:
        raise InputError(
            f"{place}: the answer {answer!r} is none of the options {', '.join(options)}", hint=OPTIONS_HINT
        )
    context = value.get("context") or ""
    if not isinstance(context, str):
        raise InputError(f"{place}: context is no text", hint=HINT)
    return Question(**vars(known), question=str(question), options=options, answer=answer, context=context)


def _passage(value: dict[str, Any], known: Record, place: str) -> Passage:
    if "messages" not in value:
        if not _is_text(value["text"]):
            raise InputError(f"{place}: text is no text", hint=HINT)
        return Passage(**vars(known), messages=(), text=value["text"])
    messages = value["messages"]
    if not isinstance(messages, list) or not all(
        isinstance(message, dict) and message.get("role") in ROLES and isinstance(message.get("content"), str)
        for message in messages
    ):
        raise InputError(f"{place}: messages is no list of tables with a role and a text as content", hint=HINT)
    if not any(message["role"] == "assistant" for message in messages):
        raise InputError(f"{place}: messages has no answer of an assistant", hint=HINT)
    plain = tuple({"role": message["role"], "content": message["content"]} for message in messages)
    return Passage(**vars(known), messages=plain, text="")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
