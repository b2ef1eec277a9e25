"""What the tests of readers share: a source written, read, and told apart into records and reasons."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.data.records import Dropped, Record
from finetune.sources import load_source, parse


def outcomes(given: str) -> list[Record | Dropped]:
    request = parse(given)
    source = load_source(request.kind)
    source.inputs(request)
    return list(source.read(request))


def records(given: str) -> list[Record]:
    found = outcomes(given)
    assert [outcome for outcome in found if isinstance(outcome, Dropped)] == []
    return [outcome for outcome in found if isinstance(outcome, Record)]


def reasons(given: str) -> list[str]:
    """The reason of what was left out, `kept` for a record."""
    return [outcome.reason if isinstance(outcome, Dropped) else "kept" for outcome in outcomes(given)]


def spoken(record: Record) -> tuple[str, str]:
    """The question and the answer of a conversation of two."""
    user, assistant = record.content["messages"]
    return user["content"], assistant["content"]


def write_jsonl(path: Path, lines: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((it if isinstance(it, str) else json.dumps(it)) + "\n" for it in lines), encoding="utf-8")
    return path


def write_csv(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path
