"""A rating comes back as it was given, in the format that eval reads; a question stays only where somebody said so."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from app.ratings import PANEL, RatedAnswer, Rating, Ratings, as_csv, as_jsonl
from eval.panel import panel, read_ratings
from medllama.errors import InputError

MESSAGES = [{"role": "user", "content": "What is gout, secretly?"}]
RATING = Rating("item", "AB", "base", "tuned", "b", 1, 5, None, 4, 3, 3, "=1+1, and a comma")
ANSWERS = [
    RatedAnswer(name, f"{name}.gguf", "0" * 64, None, None, 1024, "end", 4, f"{name} said it")
    for name in ("base", "tuned")
]
GIVEN = {"sampling": {"temperature": 0.0, "seed": 1}, "versions": {"medllama": "0.1.0"}}


def test_the_panel_format_is_the_one_that_eval_reads(tmp_path: Path) -> None:
    store = Ratings(tmp_path / "ratings.sqlite")
    assert store.panel() == []
    assert not store.path.exists(), "nothing is made before the first rating"
    store.add(RATING, ANSWERS, messages=None, **GIVEN)
    (row,) = store.panel()
    assert list(row) == [
        "item_id", "rater", "model_a", "model_b", "choice", "relevance_a", "relevance_b", "accuracy_a", "accuracy_b",
        "coherence_a", "coherence_b", "comment", "time",
    ]  # fmt: skip
    assert row["time"].endswith("+00:00")
    assert row | {"time": ""} == {name: getattr(RATING, name) for name in PANEL}
    assert [json.loads(line) for line in as_jsonl(store.panel()).splitlines()] == [row]


def test_a_spreadsheet_computes_nothing(tmp_path: Path) -> None:
    store = Ratings(tmp_path / "ratings.sqlite")
    store.add(RATING, ANSWERS, messages=None, **GIVEN)
    text = as_csv(store.panel())
    assert text.startswith("\ufeff"), "without it Excel takes UTF-8 for the letters of its own country"
    head, row = csv.reader(io.StringIO(text[1:]))
    assert dict(zip(head, row, strict=True))["comment"] == "'=1+1, and a comma"
    assert dict(zip(head, row, strict=True))["accuracy_a"] == ""
    assert as_csv([]).strip("\ufeff\r\n") == ",".join(PANEL)


def test_eval_reads_the_same_panel_from_either_file(tmp_path: Path) -> None:
    store = Ratings(tmp_path / "ratings.sqlite")
    for rater, choice, comment in (("=1+1", "a", 'two\nlines, "quoted"'), ("5", "b", ""), ("ö'", "tie", "-")):
        store.add(replace(RATING, rater=rater, choice=choice, comment=comment), ANSWERS, messages=None, **GIVEN)  # type: ignore[arg-type]
    found = []
    for name, text in (("ratings.jsonl", as_jsonl(store.panel())), ("ratings.csv", as_csv(store.panel()))):
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
        found.append([rating for _, rating in read_ratings(tmp_path / name)])
        assert panel(tmp_path / name, seed=0)["raters"] == 3
    assert [it | {"comment": it["comment"] or ""} for it in found[1]] == found[0]


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_question_is_kept_only_where_somebody_says_so(tmp_path: Path, is_kept: bool) -> None:
    store = Ratings(tmp_path / "ratings.sqlite")
    store.add(RATING, ANSWERS, messages=MESSAGES if is_kept else None, **GIVEN)
    data = store.path.read_bytes()
    assert (b"secretly" in data) == is_kept
    assert (b"said it" in data) == is_kept
    database = sqlite3.connect(store.path)
    kept = database.execute("SELECT messages, sampling FROM ratings").fetchone()
    assert kept == (json.dumps(MESSAGES) if is_kept else None, json.dumps(GIVEN["sampling"]))
    rows = database.execute("SELECT side, model, file, sha256, stop, tokens FROM answers ORDER BY side").fetchall()
    assert rows == [(side, it.model, it.file, it.sha256, "end", 4) for side, it in zip("ab", ANSWERS, strict=True)]
    database.close()


def test_one_question_has_one_id_in_a_file_and_another_elsewhere(tmp_path: Path) -> None:
    one, other = Ratings(tmp_path / "one.sqlite"), Ratings(tmp_path / "other.sqlite")
    assert one.item_id(MESSAGES) == Ratings(one.path).item_id(MESSAGES)
    assert one.item_id(MESSAGES) != one.item_id([{"role": "user", "content": "Something else?"}])
    assert one.item_id(MESSAGES) != other.item_id(MESSAGES), "nobody can look a question up by its id"


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "ratings.sqlite").write_text("not a database, but long enough to be read as one" * 10)
    with pytest.raises(InputError, match=r"ratings\.sqlite cannot be used: file is not a database"):
        Ratings(tmp_path / "ratings.sqlite").panel()
    other = Ratings(tmp_path / "newer.sqlite")
    other.item_id(MESSAGES)
    database = sqlite3.connect(other.path)
    with database:
        database.execute("UPDATE about SET format = 2")
    database.close()
    with pytest.raises(InputError, match=r"newer\.sqlite has format 2, not 1"):
        other.panel()


def test_ratings_are_read_while_somebody_else_writes(tmp_path: Path) -> None:
    store = Ratings(tmp_path / "ratings.sqlite")
    store.path.touch()
    assert store.panel() == [], "an empty file has no rating"
    store.add(RATING, ANSWERS, messages=None, **GIVEN)
    with contextlib.closing(sqlite3.connect(store.path)) as writing:
        writing.execute("BEGIN IMMEDIATE")
        assert len(store.panel()) == 1


def test_a_rating_is_whole_or_not_there(tmp_path: Path) -> None:
    store = Ratings(tmp_path / "ratings.sqlite")
    store.add(RATING, ANSWERS, messages=None, **GIVEN)
    with pytest.raises(ValueError, match="zip"):
        store.add(RATING, ANSWERS[:1], messages=None, **GIVEN)
    assert len(store.panel()) == 1
