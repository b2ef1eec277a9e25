"""Splitting and licences: decided by hashes that others do not move, and erring towards what is not published."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.blocks import FEATURES
from finetune.data.licences import canonical, may_be_published, needs_permission
from finetune.data.records import Malformed, Record, Split, multiple_choice, plain_text
from finetune.data.splitting import (
    SPLIT_CODES,
    SPLITS,
    first_of_each,
    place_in_order,
    split_of,
    unit_hash,
    with_training_records,
)


def record(text: str, document_id: str = "d", split: Split | None = None) -> Record:
    return Record(plain_text(text), "source", document_id, "MIT", split)


def test_the_split_is_pinned() -> None:
    """A change of the hash would move records of finished runs from test to train: it must be seen."""
    # printf '[0, "medquad", "1_CancerGov_QA/0000001_1"]' | sha256sum   begins with 5791ff68
    assert unit_hash(0, "medquad", "1_CancerGov_QA/0000001_1") == pytest.approx(0x5791FF68 / 2**32, abs=2**-32)


def test_shares_are_met_on_average_and_each_seed_splits_differently() -> None:
    def places(seed: int) -> list[Split]:
        return [
            split_of(record("x", f"document {i}"), seed=seed, validation_share=0.1, test_share=0.2) for i in range(5000)
        ]

    found = places(0)
    # Standard deviations of the counts are 21 and 28; five of them leave a chance of one in a million.
    assert abs(found.count("validation") - 500) < 110
    assert abs(found.count("test") - 1000) < 140
    assert found == places(0) != places(1)


def test_shares_of_zero_leave_everything_to_train() -> None:
    assert {split_of(record("x", str(i)), seed=0, validation_share=0, test_share=0) for i in range(200)} == {"train"}


def features(rows: list[tuple[str, Split, str]]) -> numpy.ndarray:
    """(rows,) FEATURES of records given as text, split and document."""
    table = numpy.zeros(len(rows), dtype=FEATURES)
    for row, (text, split, document) in zip(table, rows, strict=True):
        row["sha_high"] = int(record(text).sha256[:16], 16)
        row["sha_low"] = int(record(text).sha256[16:32], 16)
        row["split"], row["place"] = SPLIT_CODES[split], unit_hash(0, document)
        row["is_movable"] = document != ""
    return table


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["train", "validation", "test"])), max_size=12))
def test_of_equal_records_one_stays_and_a_tested_one_is_never_trained_on(pairs: list[tuple[str, Split]]) -> None:
    is_kept = first_of_each(features([(text, split, "") for text, split in pairs]))
    kept = [pair for pair, stays in zip(pairs, is_kept, strict=True) if stays]
    assert sorted(text for text, _ in kept) == sorted({text for text, _ in pairs})
    for text, split in kept:
        others = {other for same, other in pairs if same == text}
        assert split == next(name for name in ("test", "validation", "train") if name in others)
        first = pairs.index((text, split))
        assert is_kept[first]


def test_train_gets_one_whole_document_where_it_has_none() -> None:
    def splits(*rows: tuple[str, Split, str]) -> list[int]:
        table = features(list(rows))
        return with_training_records(table, numpy.ones(len(table), dtype=bool)).tolist()

    train, validation, test = (SPLIT_CODES[name] for name in SPLITS)
    found = splits(("1", "test", "a"), ("2", "validation", "b"), ("3", "test", "a"), ("4", "validation", "b"))
    assert found in ([train, validation, train, validation], [test, train, test, train])
    assert splits(("1", "test", "a"), ("2", "train", "b"), ("3", "test", "a")) == [test, train, test]
    assert splits(("1", "test", "")) == [test]  # of a source with splits of its own


def test_the_order_mixes_and_does_not_depend_on_other_records() -> None:
    records = [record(str(i)) for i in range(100)]
    ordered = sorted(records, key=lambda r: place_in_order(r, seed=0))
    assert ordered != records
    fewer = sorted(records[::3], key=lambda r: place_in_order(r, seed=0))
    assert fewer == [r for r in ordered if r in fewer]


def test_equal_content_has_an_equal_hash_wherever_it_comes_from() -> None:
    one = Record({"question": "q", "answer": "A"}, "s", "d", "MIT")
    assert one.sha256 == Record({"answer": "A", "question": "q"}, "t", "e", "CC0-1.0", "test").sha256
    # printf '{"answer":"A","question":"q"}' | sha256sum
    assert one.sha256 == "a8888281dd7a5a93a005a42d515dcfe49c24690baddd715dffed022c79388d60"


def test_a_multiple_choice_item_has_its_answer_among_the_options() -> None:
    assert multiple_choice(" q ", {"A": " x", "B": "y"}, "B") == {
        "question": "q",
        "options": {"A": "x", "B": "y"},
        "answer": "B",
    }
    for question, options, answer in (
        ("q", {"A": "x", "B": "y"}, "C"),
        ("q", {"A": "x"}, "A"),
        ("", {"A": "x", "B": "y"}, "A"),
    ):
        with pytest.raises(Malformed):
            multiple_choice(question, options, answer)


@pytest.mark.parametrize(
    ("expression", "publishable"),
    [
        ("cc-by-4.0", True),
        ("mit", True),
        ("CC0-1.0", True),
        ("MIT AND CC-BY-4.0", True),
        ("MIT OR CC-BY-NC-4.0", False),
        ("CC-BY-NC-4.0", False),
        ("CC-BY-ND-4.0", False),
        ("CC-BY-NC-SA-4.0", False),
        ("LicenseRef-hospital", False),
        ("GPL-2.0-only WITH Classpath-exception-2.0", False),
    ],
)
def test_only_licences_known_to_be_open_are_published(expression: str, publishable: bool) -> None:
    assert may_be_published(canonical(expression)) is publishable


@pytest.mark.parametrize(
    ("expression", "refused"),
    [
        ("CC-BY-NC-4.0", True),
        ("LicenseRef-CC-BY-NC", True),
        ("LicenseRef-CC-BY-NC-ND-2.0-UK", True),
        ("MIT AND CC-BY-NC-SA-4.0", True),
        ("NCGL-UK-2.0", True),
        ("PolyForm-Noncommercial-1.0.0", True),
        ("LicenseRef-Non-Commercial", True),
        ("LicenseRef-PhysioNet-Credentialed-1.6.0", True),
        ("NCSA", False),
        ("CC-BY-4.0", False),
        ("LicenseRef-hospital", False),
    ],
)
def test_noncommercial_and_credentialed_data_is_refused_whatever_its_licence_is_called(
    expression: str, refused: bool
) -> None:
    assert needs_permission(canonical(expression)) is refused
    assert not (refused and may_be_published(canonical(expression)))


def test_no_licence_is_not_publishable_and_no_spdx_licence_is_an_error() -> None:
    assert not may_be_published("NOASSERTION")
    assert not may_be_published("")
    for wrong in ("", "CC-BY", "public", "MIT AND", "NOASSERTION", "MIT\nX"):
        with pytest.raises(ValueError, match="is no SPDX licence"):
            canonical(wrong)


@pytest.mark.parametrize(
    ("expression", "refused"),
    [
        ("CC-BY-NC-SA-4.0", True),
        ("CC-BY-NC-4.0", True),
        ("MIT AND CC-BY-NC-ND-4.0", True),
        ("LicenseRef-RAIL-D", True),
        ("LicenseRef-PhysioNet-Credentialed-1.5.0", True),
        ("CC-BY-4.0", False),
        ("NOASSERTION", False),
        ("LicenseRef-my-terms", False),
    ],
)
def test_non_commercial_and_credentialed_data_needs_permission(expression: str, refused: bool) -> None:
    assert needs_permission(expression) is refused
