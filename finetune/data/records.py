"""What prepare makes: a record is a conversation, a text or a multiple-choice item, with where it comes from.

    Record({"messages": [...]}, source="medquad", document_id="1_CancerGov_QA/0000001_1", licence="CC-BY-4.0")

`conversation`, `plain_text` and `multiple_choice` make the content and are the only gate to it: what passes them can be
written as UTF-8, rendered by a chat template and trained on. What does not pass raises Malformed with the reason, which
a reader turns into a Dropped, so that everything that was read is either a Record or a reason.

Content has no whitespace at its edges: chat templates of the Llama families differ in whether they trim it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

Split = Literal["train", "validation", "test", "multiple_choice"]
"""The file that a record goes to. Multiple-choice items are a test of their own."""
LETTERS = "ABCDEFGHIJ"
"""Of the options of a multiple-choice item, as `eval` and the columns of Parquet have them."""
NO_LICENCE = "NOASSERTION"
"""SPDX's word for a licence that nobody has stated. Such a record trains and is never published."""


class Malformed(ValueError):
    """What was read cannot become a record. `reason` is one of few, `detail` tells this case from the others."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Record:
    """Content and provenance. `split` is set by a source that has splits of its own, else the document decides."""

    content: dict[str, Any]
    source: str
    document_id: str
    licence: str
    split: Split | None = None

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the content alone, so that equal content is equal wherever it comes from."""
        canonical = json.dumps(self.content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def as_line(self) -> str:
        """The record as one line of JSONL."""
        provenance = {"source": self.source, "document_id": self.document_id, "licence": self.licence}
        return json.dumps(self.content | provenance | {"sha256": self.sha256}, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Dropped:
    """Something that was read and gives no record: why, and where it stands (`file:line`).

    `is_bad` tells what is broken, which is shown and may stop the run, from what is merely not wanted.
    """

    reason: str
    place: str
    detail: str = ""
    is_bad: bool = True

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


def conversation(messages: Sequence[tuple[object, object]]) -> dict[str, Any]:
    """The content of a chat record from (role, text) pairs.

    Roles are a system message or none, then user and assistant in turn, the assistant last.
    """
    if not messages:
        raise Malformed("no messages")
    turns = []
    for role, text in messages:
        if role not in ("system", "user", "assistant"):
            raise Malformed("unknown role", _shortened(role))
        if not isinstance(text, str):
            raise Malformed("content is not text", f"{role}: {_shortened(text)}")
        content = checked_text(text).strip()
        if not content:
            raise Malformed("empty answer" if role == "assistant" else f"empty {role} message")
        turns.append({"role": role, "content": content})
    roles = [turn["role"] for turn in turns]
    spoken = roles[1:] if roles[0] == "system" else roles
    if "assistant" not in spoken:
        raise Malformed("no assistant turn")
    if spoken[-1] != "assistant":
        raise Malformed("last turn is not the assistant's")
    if len(spoken) % 2 or spoken != ["user", "assistant"] * (len(spoken) // 2):
        raise Malformed("turns do not alternate", ", ".join(roles[:8]))
    return {"messages": turns}


def plain_text(text: object) -> dict[str, Any]:
    """The content of a record of running text."""
    if not isinstance(text, str):
        raise Malformed("text is not text", _shortened(text))
    content = checked_text(text).strip()
    if not content:
        raise Malformed("empty text")
    return {"text": content}


def multiple_choice(question: object, options: Mapping[str, object], answer: object) -> dict[str, Any]:
    """The content of a multiple-choice item; `answer` is the letter of the right option. Options are lettered from A on."""
    letters = LETTERS[: len(options)]
    if len(options) < 2 or set(options) != set(letters):
        raise Malformed("options are not lettered from A on", _shortened(list(options)))
    if answer not in list(options):
        raise Malformed("answer is none of the options", _shortened(answer))
    texts = {letter: _stated(options[letter]) for letter in letters}
    if not (asked := _stated(question)) or not all(texts.values()):
        raise Malformed("empty question or option")
    return {"question": asked, "options": texts, "answer": answer}


def _stated(text: object) -> str:
    if not isinstance(text, str):
        raise Malformed("question or option is not text", _shortened(text))
    return checked_text(text).strip()


def checked_text(text: str) -> str:
    """`text`, unless it holds what no tokenizer and no file should get: NUL, or half of a surrogate pair."""
    if "\0" in text:
        raise Malformed("NUL character")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Malformed("lone surrogate", f"U+{ord(text[error.start]):04X}") from None
    return text


def _shortened(value: object) -> str:
    """`value` for a message: ASCII, so that it can be printed whatever it holds, and short."""
    shown = ascii(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
