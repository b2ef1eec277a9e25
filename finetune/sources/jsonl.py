"""`jsonl:FILE?licence=SPDX`: a person's own conversations, one JSON object a line.

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
    {"prompt": "...", "response": "..."}        also instruction (and input) / output, and question / answer
    {"text": "..."}

A line may also have `system` (a system message), and `source`, `document_id` and `licence`, so that what prepare wrote
can be read again. Without a document id, lines that begin with the same question are one document: answers to a
question that is tested are not trained on.

A line that is none of this is bad: counted, and named with its number. Blank lines are nothing. A file that is not
UTF-8 is refused as a whole: its other lines would be misread in silence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from finetune.licences import canonical
from finetune.records import NO_LICENCE, Dropped, Malformed, Record, checked_text, conversation, plain_text
from finetune.sources import Source, SourceRequest, existing_file
from medllama.errors import InputError

QUESTION_AND_ANSWER = (("prompt", "response"), ("instruction", "output"), ("question", "answer"))


def read(request: SourceRequest) -> Iterator[Record | Dropped]:
    """A Record or a Dropped for each line that is not blank."""
    path = request.required_path()
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            line = _decoded(raw, request, number)
            if not line.strip():
                continue
            try:
                yield _record(line, request)
            except Malformed as error:
                yield Dropped(error.reason, f"{path}:{number}", error.detail)


def _decoded(raw: bytes, request: SourceRequest, number: int) -> str:
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        path = request.path
        raise InputError(
            f"{path}:{number} is not UTF-8: byte {raw[error.start]:#04x} at column {error.start + 1}",
            hint=f"convert it first, for example: iconv -f latin1 -t utf-8 {path} > {path}.utf8",
        ) from None


def _record(line: str, request: SourceRequest) -> Record:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise Malformed("not JSON", f"column {error.colno}: {error.msg}") from None
    except (RecursionError, ValueError):  # ValueError: a number of more digits than Python converts
        raise Malformed("not JSON", "nested too deeply, or a number too long") from None
    if not isinstance(value, dict):
        raise Malformed("not an object", f"{type(value).__name__} where {{...}} was expected")
    content = _content(value)
    name = request.required_path().stem
    licence = _optional_text(value, "licence")
    if licence in ("", NO_LICENCE):
        licence = request.stated_licence()
    else:
        try:
            licence = canonical(licence)
        except ValueError as error:
            raise Malformed("malformed licence", str(error)) from None
    return Record(
        content,
        source=_optional_text(value, "source") or name,
        document_id=_optional_text(value, "document_id") or f"{name}/{_question_hash(content)}",
        licence=licence,
    )


def _content(value: dict[str, Any]) -> dict[str, Any]:
    """The content in whichever shape the line has; a line of two shapes is malformed, as either could be meant."""
    shapes: list[tuple[str, ...]] = [keys for keys in QUESTION_AND_ANSWER if all(key in value for key in keys)]
    if "messages" in value:
        shapes.append(("messages",))
    if not shapes and "text" in value:
        return plain_text(value["text"])
    if not shapes:
        raise Malformed("unknown shape", f"keys {', '.join(map(ascii, list(value)[:6])) or 'none'}")
    if len(shapes) > 1:
        raise Malformed("two shapes in one line", " and ".join("/".join(keys) for keys in shapes))
    if "options" in value:
        raise Malformed("multiple choice", "a question with options is no conversation")
    messages = _messages(value["messages"]) if shapes == [("messages",)] else _turns(value, *shapes[0])
    if system := _optional_text(value, "system"):
        messages.insert(0, ("system", system))
    return conversation(messages)


def _messages(value: object) -> list[tuple[object, object]]:
    if not isinstance(value, list):
        raise Malformed("messages is not a list")
    for message in value:
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise Malformed("a message without role and content")
    return [(message["role"], message["content"]) for message in value]


def _turns(value: dict[str, Any], question_key: str, answer_key: str) -> list[tuple[object, object]]:
    question = value[question_key]
    if question_key == "instruction" and isinstance(question, str) and (more := _optional_text(value, "input")):
        question = f"{question.strip()}\n\n{more}"
    return [("user", question), ("assistant", value[answer_key])]


def _optional_text(value: dict[str, Any], key: str) -> str:
    """The text under `key`, empty where there is none. A number is taken for its digits, as ids often are numbers."""
    found = value.get(key)
    if found is None:
        return ""
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    if not isinstance(found, str):
        raise Malformed(f"{key} is not text")
    return checked_text(found).strip()


def _question_hash(content: dict[str, Any]) -> str:
    """What lines of one document have in common: the first user message, or the text."""
    spoken = [turn["content"] for turn in content.get("messages", ()) if turn["role"] == "user"]
    return hashlib.sha256((spoken[0] if spoken else content["text"]).encode()).hexdigest()[:16]


SOURCE = Source(example="jsonl:FILE?licence=SPDX", read=read, inputs=existing_file)
