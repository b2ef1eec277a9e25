"""Plain text: paragraphs are packed, nothing is lost but blank lines, and sections keep their place."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.records import Dropped, Record
from finetune.sources import parse
from finetune.sources.text import SECTION_CHARACTERS, paragraphs, pieces, read
from medllama.errors import InputError


def outcomes(folder: Path, text: str | bytes, query: str = "") -> list[Record | Dropped]:
    (folder / "notes.txt").write_bytes(text.encode() if isinstance(text, str) else text)
    return list(read(parse(f"text:{folder}/notes.txt{query}")))


def paragraph(number: int, characters: int = 900) -> str:
    return f"Paragraph {number}. ".ljust(characters, "x")


def test_paragraphs_are_packed_up_to_the_bound(tmp_path: Path) -> None:
    whole = SECTION_CHARACTERS // 2 - 1
    texts = [
        outcome.content["text"]
        for outcome in outcomes(tmp_path, "\n\n".join(paragraph(i, whole) for i in range(5)))
        if isinstance(outcome, Record)
    ]
    parts = [paragraph(i, whole) for i in range(5)]
    assert texts == [f"{parts[0]}\n\n{parts[1]}", f"{parts[2]}\n\n{parts[3]}", parts[4]]


def test_lines_inside_a_paragraph_and_windows_line_ends(tmp_path: Path) -> None:
    [record] = outcomes(tmp_path, "\r\n \t\r\nDrug\tDose\r\nA\t1 \r\n\r\n\r\nNext.\r\n")
    assert isinstance(record, Record)
    assert record.content == {"text": "Drug\tDose\nA\t1\n\nNext."}
    assert (record.source, record.licence) == ("notes", "NOASSERTION")


def test_text_added_at_the_end_moves_no_section_but_the_last(tmp_path: Path) -> None:
    documents = [
        [
            outcome.document_id
            for outcome in outcomes(tmp_path, "\n\n".join(paragraph(i, 3000) for i in range(n)))
            if isinstance(outcome, Record)
        ]
        for n in (11, 12)
    ]
    assert len(set(documents[0])) == len(documents[0]) == 6
    assert documents[1][:5] == documents[0][:5]


def test_the_stated_licence_is_every_record_s(tmp_path: Path) -> None:
    [record] = outcomes(tmp_path, "Text.", "?licence=cc-by-4.0")
    assert isinstance(record, Record)
    assert record.licence == "CC-BY-4.0"


def test_a_paragraph_with_nul_is_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    dropped, record = outcomes(tmp_path, "\nbad\0\nlines\n\ngood")
    assert isinstance(dropped, Dropped)
    assert (dropped.place, dropped.reason) == (f"{tmp_path}/notes.txt:2", "NUL character")
    assert isinstance(record, Record)
    assert record.content == {"text": "good"}


def test_another_encoding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not UTF-8"):
        outcomes(tmp_path, "Ménière".encode("latin-1"))


def test_long_paragraphs_are_cut_at_sentences_then_words_then_anywhere() -> None:
    assert list(pieces("One. Two three. Four", 16)) == ["One. Two three.", "Four"]
    assert list(pieces("alpha beta gamma", 11)) == ["alpha beta", "gamma"]
    assert list(pieces("abcdefgh", 3)) == ["abc", "def", "gh"]


@given(st.text(alphabet="ab. \n\t", max_size=60), st.integers(1, 20))
def test_pieces_are_bounded_and_lose_whitespace_only(text: str, limit: int) -> None:
    found = list(pieces(text.strip(), limit))
    assert all(0 < len(piece) <= limit for piece in found)
    assert "".join("".join(found).split()) == "".join(text.split())


@settings(max_examples=50)
@given(st.text(max_size=80))
def test_paragraphs_lose_blank_lines_only_and_know_their_line(text: str) -> None:
    found = list(paragraphs(iter(text.split("\n"))))
    assert "".join("".join(body for _, body in found).split()) == "".join(text.split())
    for line, body in found:
        assert body.split("\n")[0].strip() in text.split("\n")[line - 1]


def test_a_text_without_blank_lines_is_not_taken_into_memory_as_a_whole(tmp_path: Path) -> None:
    line = "Gout hurts, and it is uric acid that makes it hurt.\n"
    (tmp_path / "notes.txt").write_text(line * 100_000)  # 5 MB
    tracemalloc.start()
    try:
        lengths = [
            len(found.content["text"])
            for found in read(parse(f"text:{tmp_path}/notes.txt"))
            if isinstance(found, Record)
        ]
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
    assert max(lengths) <= SECTION_CHARACTERS
    assert sum(lengths) > 100_000 * len(line) * 0.99
