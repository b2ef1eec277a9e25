"""Blind ratings in a SQLite file: what a person preferred, and what is needed to get the same answers again.

    store = Ratings(Path("runs/tiny/ratings.sqlite"))
    store.add(rating, (answer_a, answer_b), question)      # the question and the answers are kept only where it is given
    store.panel()                                          # rows as `medllama eval --panel` reads them

The file is made at the first rating. The same question has the same `item_id` in one file, whether it is kept or not: a keyed
hash, so that an exported id does not give the question away.
"""

from __future__ import annotations

import contextlib
import csv
import hmac
import io
import json
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from medllama.errors import InputError

Choice = Literal["a", "b", "tie", "both_bad"]
FORMAT = 1
SCHEMA = """
CREATE TABLE about (format INTEGER NOT NULL, secret BLOB NOT NULL);
CREATE TABLE ratings (
  id INTEGER PRIMARY KEY, item_id TEXT NOT NULL, rater TEXT NOT NULL, model_a TEXT NOT NULL, model_b TEXT NOT NULL,
  choice TEXT NOT NULL CHECK (choice IN ('a', 'b', 'tie', 'both_bad')),
  relevance_a INTEGER, relevance_b INTEGER, accuracy_a INTEGER, accuracy_b INTEGER, coherence_a INTEGER, coherence_b INTEGER,
  comment TEXT NOT NULL, time TEXT NOT NULL, messages TEXT, sampling TEXT NOT NULL, versions TEXT NOT NULL
);
CREATE TABLE answers (
  rating INTEGER NOT NULL REFERENCES ratings (id), side TEXT NOT NULL CHECK (side IN ('a', 'b')), model TEXT NOT NULL,
  file TEXT NOT NULL, sha256 TEXT, adapter TEXT, adapter_sha256 TEXT, context_tokens INTEGER, stop TEXT NOT NULL,
  tokens INTEGER NOT NULL, text TEXT, PRIMARY KEY (rating, side)
);
"""


@dataclass(frozen=True)
class Rating:
    """One person's judgement of two answers, in the panel format's fields; a scale that was left out is None."""

    item_id: str
    rater: str
    model_a: str
    model_b: str
    choice: Choice
    relevance_a: int | None = None
    relevance_b: int | None = None
    accuracy_a: int | None = None
    accuracy_b: int | None = None
    coherence_a: int | None = None
    coherence_b: int | None = None
    comment: str = ""
    time: str = ""


@dataclass(frozen=True)
class RatedAnswer:
    """Which file gave an answer, and how it ended."""

    model: str
    file: str
    sha256: str | None
    adapter: str | None
    adapter_sha256: str | None
    context_tokens: int | None
    stop: str
    tokens: int
    text: str | None


PANEL = tuple(field.name for field in fields(Rating))


class Ratings:
    """The ratings of one file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(
        self, rating: Rating, answers: Sequence[RatedAnswer], *, messages: Sequence[dict[str, str]] | None,
        sampling: dict[str, Any], versions: dict[str, str],
    ) -> None:  # fmt: skip
        """Write a rating with the answers that it is about. `messages` is None where nobody said that they may be kept."""
        kept = None if messages is None else json.dumps(messages, ensure_ascii=False)
        row = asdict(rating) | {
            "time": rating.time or datetime.now(UTC).isoformat(timespec="seconds"),
            "messages": kept, "sampling": json.dumps(sampling), "versions": json.dumps(versions),
        }  # fmt: skip
        with self._open() as database:
            number = _insert(database, "ratings", row)
            for side, answer in zip("ab", answers, strict=True):
                text = answer.text if messages is not None else None
                _insert(database, "answers", asdict(answer) | {"rating": number, "side": side, "text": text})

    def item_id(self, messages: Sequence[dict[str, str]]) -> str:
        """The id of a conversation in this file."""
        with self._open() as database:
            (secret,) = database.execute("SELECT secret FROM about").fetchone()
        return hmac.digest(secret, json.dumps(messages).encode(), "sha256").hex()[:16]

    def panel(self) -> list[dict[str, Any]]:
        """Every rating in the order in which they came; none where there is no file."""
        if not self.path.exists() or not self.path.stat().st_size:
            return []
        with self._open(is_reading=True) as database:
            rows = database.execute(f"SELECT {', '.join(PANEL)} FROM ratings ORDER BY id").fetchall()
        return [dict(zip(PANEL, row, strict=True)) for row in rows]

    @contextlib.contextmanager
    def _open(self, *, is_reading: bool = False) -> Iterator[sqlite3.Connection]:
        """The database in one transaction, made where it is not there. Who only reads needs no right to write and no turn."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(sqlite3.connect(self.path, timeout=10)) as database, database:
                database.execute("PRAGMA foreign_keys = ON")
                database.execute("BEGIN" if is_reading else "BEGIN IMMEDIATE")
                if not is_reading and not database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    for statement in SCHEMA.strip().split(";\n"):
                        database.execute(statement)
                    database.execute("INSERT INTO about VALUES (?, ?)", (FORMAT, secrets.token_bytes(32)))
                (found,) = database.execute("SELECT format FROM about").fetchone()
                if found != FORMAT:
                    raise InputError(
                        f"{self.path} has format {found}, not {FORMAT}", hint="name another --ratings file"
                    )
                yield database
        except (sqlite3.Error, OSError) as error:
            raise InputError(f"{self.path} cannot be used: {error}", hint="name another --ratings file") from None


def _insert(database: sqlite3.Connection, table: str, row: dict[str, Any]) -> int:
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    return int(database.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(row.values())).lastrowid or 0)


def as_jsonl(rows: Sequence[dict[str, Any]]) -> str:
    """A rating a line, as `medllama eval --panel` reads them."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """A table for spreadsheets, which know UTF-8 by the mark before it. A text that one would take for a formula gets an
    apostrophe before it."""
    out = io.StringIO("\ufeff")
    out.seek(1)
    writer = csv.writer(out)
    names = list(rows[0]) if rows else list(PANEL)
    writer.writerow(names)
    writer.writerows([harmless(row[name]) for name in names] for row in rows)
    return out.getvalue()


def harmless(value: Any) -> Any:
    """The value as no spreadsheet computes it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
