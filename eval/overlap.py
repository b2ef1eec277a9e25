"""Whether a test asks what training has read: items that share a long run of words with the training data.

Thirteen words in a row is the field's habit (Brown et al. 2020, arXiv:2005.14165, appendix C). A shorter text counts where the
whole of it, of at least eight words, stands in the training data. Words are letters and digits, without regard to case. Only the
items' runs are kept in memory; the training data is read once, a record at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eval.tasks import Passage, Question
from medllama.files import read_jsonl, sha256_file

WORDS = 13
FEWEST_WORDS = 8  # of a whole text; fewer are found by chance
WORD = re.compile(r"\w+")


def overlaps(records: Sequence[Question | Passage], training: Path) -> list[bool]:
    """For each record whether a part of it stands in the training data: (records,)."""
    wanted: dict[tuple[str, ...], set[int]] = {}
    lengths: set[int] = set()
    for number, record in enumerate(records):
        for text in _texts(record):
            for run in _runs(_words(text)):
                wanted.setdefault(run, set()).add(number)
                lengths.add(len(run))
    found: set[int] = set()
    for _, value in read_jsonl(training):
        for text in _training_texts(value):
            words = _words(text)
            for length in lengths:
                for start in range(len(words) - length + 1):
                    found |= wanted.get(tuple(words[start : start + length]), set())
    return [number in found for number in range(len(records))]


def described(flags: Sequence[bool], training: Path, card: dict[str, Any] | None) -> dict[str, Any]:
    """What a result says of the overlap. `card` is the data card beside the training data."""
    return {
        "items": sum(flags),
        "of": len(flags),
        "words": WORDS,
        "training_file": training.name,
        "training_sha256": sha256_file(training),
        "sources": [source["name"] for source in (card or {}).get("sources", [])],
    }


def warning(overlap: dict[str, Any] | None) -> list[str]:
    """In words, where there is something to say."""
    if overlap is None or not overlap["items"]:
        return []
    sources = f" ({', '.join(overlap['sources'])})" if overlap["sources"] else ""
    return [
        f"{overlap['items']:,} of {overlap['of']:,} items share {overlap['words']} words in a row, or all of "
        f"theirs, with the training "
        f"data{sources}"
    ]


def _texts(record: Question | Passage) -> list[str]:
    if isinstance(record, Question):
        return [record.question, record.context]
    # A system prompt stands before every conversation, in training as in the test.
    return [message["content"] for message in record.messages if message["role"] != "system"] or [record.text]


def _training_texts(value: dict[str, Any]) -> Iterator[str]:
    for message in value.get("messages") or []:
        yield str(message.get("content", ""))
    for key in ("text", "question", "context"):
        if isinstance(value.get(key), str):
            yield value[key]


def _words(text: str) -> list[str]:
    return WORD.findall(text.casefold())


def _runs(words: list[str]) -> Iterator[tuple[str, ...]]:
    if FEWEST_WORDS <= len(words) < WORDS:
        yield tuple(words)
    for start in range(len(words) - WORDS + 1):
        yield tuple(words[start : start + WORDS])
