"""Records to what the trainer gets: ids, and labels where the model is to learn.

    records.jsonl -> Tokenized(records, truncated, dropped, split)

A conversation learns its answers and their end tokens (`medllama.chat`); a text learns everything. Longer than the maximum, a
conversation is cut, and a text continues in the next record: nothing of it is lost. Both become ids here and nowhere else, so that
what is trained on is what llama.cpp will read. Imports no torch: a fault in the data shows before anything heavy is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy

from finetune.data.records import Malformed, conversation, plain_text
from medllama import progress
from medllama.chat import IGNORED_LABEL, Chat, Labelled
from medllama.errors import InputError
from medllama.files import read_jsonl
from medllama.tokenizer import Tokenizer


@dataclass(frozen=True)
class TokenizedRecord:
    """`input_ids` and `labels` (n,) int32; a label is the id at its place, or -100 where nothing is learned."""

    input_ids: numpy.ndarray
    labels: numpy.ndarray
    document_id: str

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def learned_tokens(self) -> int:
        return int((self.labels != IGNORED_LABEL).sum())


@dataclass(frozen=True)
class Tokenized:
    """The records of one file, with how many conversations were cut at the maximum length, how many records had nothing left to
    learn, and how many texts became more than one record."""

    records: list[TokenizedRecord]
    truncated: int = 0
    dropped: int = 0
    split: int = 0

    @property
    def tokens(self) -> int:
        return sum(map(len, self.records))

    @property
    def learned_tokens(self) -> int:
        return sum(record.learned_tokens for record in self.records)

    def only(self, positions: Sequence[int]) -> Tokenized:
        """Some of the records, in the order of `positions`."""
        return replace(self, records=[self.records[position] for position in positions])

    def as_json(self) -> dict[str, int]:
        return {
            "records": len(self.records),
            "tokens": self.tokens,
            "learned_tokens": self.learned_tokens,
            "truncated": self.truncated,
            "dropped": self.dropped,
            "split": self.split,
        }


class RecordEncoder:
    """How records of one model become ids: its tokenizer, its chat (None: plain text only), its rows and a maximum length."""

    def __init__(self, tokenizer: Tokenizer, chat: Chat | None, *, embedding_rows: int, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.chat = chat
        self.embedding_rows = embedding_rows
        self.max_length = max_length

    def encode_file(self, path: Path, learn: str = "all") -> Tokenized:
        """The records of a JSONL file, or those with `messages` or `text` alone. Raises InputError with file and line for what
        cannot be a record."""
        records: list[TokenizedRecord] = []
        truncated = dropped = split = 0
        for place, record in read_jsonl(path):
            if learn != "all" and learn not in record and not {"messages", "text"}.isdisjoint(record):
                continue
            labelled = self.encode(record, place)
            self._require_rows(max(labelled.input_ids), place)
            is_conversation, is_long = "messages" in record, len(labelled.input_ids) > self.max_length
            truncated += is_long and is_conversation
            split += is_long and not is_conversation
            pieces = [cut(labelled, self.max_length)] if is_conversation else self.pieces(labelled)
            document = str(record.get("document_id", place))
            learned = [it for piece in pieces if (it := tokenized(piece, document)).learned_tokens]
            records += learned
            dropped += not learned
            progress.update(f"tokenizing {path.name}: {len(records):,} records")
        return Tokenized(records, truncated, dropped, split)

    def encode(self, record: dict[str, Any], place: str) -> Labelled:
        """All ids of one record, uncut. `place` (`file:line`) stands in errors."""
        try:
            if "messages" in record:
                return self._encode_conversation(record["messages"], place)
            if "text" in record:
                return self._encode_text(plain_text(record["text"])["text"])
            raise Malformed("neither messages nor text", ", ".join(record))
        except Malformed as problem:
            raise InputError(f"{place}: {problem}", hint="medllama prepare writes records that fit") from None

    def _encode_conversation(self, messages: Any, place: str) -> Labelled:
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise Malformed("messages is not a list of tables")
        if self.chat is None:
            raise InputError(
                f"{place} is a conversation, and the base has no chat template",
                hint="choose one: --chat-template llama2, llama3 or a Jinja file",
            )
        pairs = [(message.get("role"), message.get("content")) for message in messages]
        messages = conversation(pairs)["messages"]
        try:
            return self.chat.encode_for_training(messages)
        except InputError as error:
            raise InputError(f"{place}: {error.message}", hint=error.hint) from None

    def _encode_text(self, text: str) -> Labelled:
        """BOS, the text, EOS: everything is learned except BOS, which nothing comes before."""
        vocabulary = self.tokenizer.vocabulary
        start = [] if vocabulary.bos_id is None else [vocabulary.bos_id]
        end = [] if vocabulary.eos_id is None else [vocabulary.eos_id]
        ids = start + self.tokenizer.encode_text(text) + end
        return Labelled(ids, [IGNORED_LABEL, *ids[1:]])

    def pieces(self, text: Labelled) -> list[Labelled]:
        """A text in pieces of the maximum length that learn each of its tokens once. Each begins as a text does, with BOS, or where
        the vocabulary has none with the last token of the piece before."""
        ids, step = text.input_ids, self.max_length - 1
        bos = [] if self.tokenizer.vocabulary.bos_id is None else ids[:1]
        found = []
        for start in range(0, len(ids) - 1, step):
            learned = ids[start + 1 : start + 1 + step]
            found.append(Labelled([*(bos or ids[start : start + 1]), *learned], [IGNORED_LABEL, *learned]))
        return found

    def _require_rows(self, highest: int, place: str) -> None:
        if highest >= self.embedding_rows:
            token = self.tokenizer.vocabulary.tokens[highest]
            raise InputError(
                f"{place}: {token!r} has the id {highest}, but the base's embedding has only {self.embedding_rows} rows",
                hint="the tokenizer and the weights are of different versions; copy both from one place",
            )


def cut(labelled: Labelled, length: int) -> Labelled:
    return Labelled(labelled.input_ids[:length], labelled.labels[:length])


def tokenized(labelled: Labelled, document_id: str) -> TokenizedRecord:
    ids, labels = (numpy.array(row, dtype=numpy.int32) for row in (labelled.input_ids, labelled.labels))
    return TokenizedRecord(ids, labels, document_id)
