"""Near duplicates: found from the threshold on, the test never loses one, and the index stays within its stated size."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import numpy
import pytest

from finetune.data.near_duplicates import (
    DISK_BYTES_PER_DOCUMENT,
    MEMORY_BYTES_PER_DOCUMENT,
    MINIMUM_WORDS,
    ROUNDS,
    RUN_WORDS,
    SLOTS,
    near_duplicates,
    rows_of_a_band,
    signatures,
    topic_of,
)
from finetune.data.splitting import TEST
from finetune.data.words import runs, word_hashes, words_of


def texts(count: int, length: int = 200, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(f"word{draw.randrange(50_000)}" for _ in range(length)) for _ in range(count)]


def changed(text: str, places: int) -> str:
    """The text with `places` words exchanged, far apart: each takes RUN_WORDS of the runs with it."""
    words = text.split()
    for number in range(places):
        words[(number * len(words)) // places] = f"other{number}"
    return " ".join(words)


def jaccard(first: str, second: str) -> float:
    one, two = (set(runs(word_hashes(words_of(text)), RUN_WORDS).tolist()) for text in (first, second))
    return len(one & two) / len(one | two)


def found(
    all_texts: list[str], threshold: float = 0.8, splits: str = "", topics: list[str] | None = None
) -> list[bool]:
    """Which go, of documents of these splits (t: train, v: validation, x: test) and questions."""
    table, is_signed = signatures(all_texts)
    assert is_signed.all()
    codes = numpy.array(["tvx".index(letter) for letter in splits or "t" * len(all_texts)], dtype="u1")
    asked = numpy.array([topic_of(question) for question in topics or [""] * len(all_texts)], dtype="u8")
    return near_duplicates(table, numpy.arange(len(all_texts)), codes, asked, threshold).tolist()


def unasked(count: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The splits and topics of texts that all train."""
    return numpy.zeros(count, dtype="u1"), numpy.zeros(count, dtype="u8")


def test_resembling_documents_go_and_others_stay() -> None:
    originals = texts(200)
    close, far = [changed(text, 2) for text in originals], [changed(text, 14) for text in originals]
    assert min(map(jaccard, originals, close)) > 0.88
    assert max(map(jaccard, originals, far)) < 0.55
    gone = found(originals + close + far)
    assert gone[:200] == [False] * 200
    assert (
        sum(gone[200:400]) >= 198
    )  # the estimate's standard error is 0.03: two and a half of them lie between 0.88 and 0.8
    assert sum(gone[400:]) == 0


def test_layout_case_and_punctuation_make_no_difference() -> None:
    [text] = texts(1)
    assert found([text, text.upper().replace(" ", ",\n ")]) == [False, True]


def test_the_earlier_stays_and_a_test_stays_too() -> None:
    [text] = texts(1)
    assert found([text, changed(text, 1), changed(text, 2)]) == [False, True, True]
    assert found([text, changed(text, 1), changed(text, 2)], splits="xxt") == [False, False, True]
    assert found([text, changed(text, 1), changed(text, 2)], splits="xvt") == [False, True, True]


def test_one_answer_to_questions_on_two_things_is_two_facts_but_not_between_splits() -> None:
    [text] = texts(1)
    questions = ["Is gout inherited?", "Is sialidosis inherited?", "is the gout inherited"]
    alike = [text, changed(text, 1), changed(text, 2)]
    assert found(alike, topics=questions) == [False, False, True]
    assert found(alike, topics=questions, splits="xtt") == [False, True, True]
    assert found(alike, topics=questions, splits="vvv") == [False, False, True]


def test_a_topic_is_what_a_short_question_names() -> None:
    assert topic_of("What is (are) Gout ?") == topic_of("Please explain the gout.") != topic_of("What is asthma?")
    assert topic_of("Is gout inherited?") not in (0, topic_of("What is gout?"))
    assert topic_of("") == topic_of("What is it?") == topic_of("Gout " * 20) == 0


def test_a_bucket_of_unlike_documents_is_compared_to_its_end() -> None:
    """One band of equal slots puts all into one bucket; only the last two are alike."""
    table = numpy.random.default_rng(0).integers(0, 2**32, size=(20, SLOTS), dtype=numpy.uint32)
    table[:, : rows_of_a_band(0.8)] = 7
    table[19] = table[18]
    assert numpy.flatnonzero(near_duplicates(table, numpy.arange(20), *unasked(20), 0.8)).tolist() == [19]


def test_between_splits_the_last_of_many_unlike_tests_is_compared_too() -> None:
    table = numpy.random.default_rng(0).integers(0, 2**32, size=(2 * ROUNDS + 1, SLOTS), dtype=numpy.uint32)
    table[:, : rows_of_a_band(0.8)] = 7
    table[-1] = table[-2]
    splits, topics = unasked(len(table))
    splits[:-1] = TEST
    gone = near_duplicates(table, numpy.arange(len(table)), splits, topics, 0.8)
    assert numpy.flatnonzero(gone).tolist() == [len(table) - 1]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 0.95])
def test_bands_find_what_the_threshold_asks_for(threshold: float) -> None:
    rows = rows_of_a_band(threshold)
    assert 1 - (1 - threshold**rows) ** (SLOTS // rows) >= 0.99


def test_what_has_no_words_is_not_compared() -> None:
    table, is_signed = signatures(["one two three", " ".join(["word"] * MINIMUM_WORDS), "", "-- ?"])
    assert (len(table), is_signed.tolist()) == (2, [True, True, False, False])


def test_the_index_costs_no_more_than_it_says(tmp_path: Path) -> None:
    count = 100_000
    path = tmp_path / "signatures.bin"
    table = numpy.memmap(path, dtype=numpy.uint32, mode="w+", shape=(count, SLOTS))
    table[:] = numpy.random.default_rng(0).integers(0, 2**32, size=table.shape, dtype=numpy.uint32)
    table[count // 2 :] = table[: count // 2]  # the worst case: every bucket has two
    assert path.stat().st_size == count * DISK_BYTES_PER_DOCUMENT
    rows, (splits, topics) = numpy.arange(count, dtype=numpy.uint32), unasked(count)
    tracemalloc.start()
    gone = near_duplicates(table, rows, splits, topics, 0.8)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert gone.sum() == count // 2
    assert peak_bytes < count * MEMORY_BYTES_PER_DOCUMENT


def test_a_short_text_is_found_again_whatever_its_case_and_punctuation() -> None:
    short = ["What causes gout? Uric acid.", "what causes gout\nUric acid", "What causes gout? Lead.", "?"]
    table, is_signed = signatures(short)
    assert is_signed.tolist() == [True, True, True, False]
    gone = near_duplicates(table, numpy.arange(3), *unasked(3), 0.8)
    assert gone.tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("one", "other"), [("CD4+ cells", "CD4- cells"), ("pH > 7", "pH < 7"), ("5 mg daily", "10 mg daily")]
)
def test_short_texts_that_differ_in_a_sign_or_a_figure_both_stay(one: str, other: str) -> None:
    table, _ = signatures([one, other])
    assert not near_duplicates(table, numpy.arange(2), *unasked(2), 0.3).any()
