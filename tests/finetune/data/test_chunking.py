"""Chunking: no piece is too long, nothing is lost, and cuts fall where a reader would make them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.chunking import estimated_tokens, pieces, token_counter, tokenizer_folder
from medllama.errors import InputError


def words(text: str) -> int:
    return len(text.split())


@given(st.text(alphabet="ab .\n", max_size=400), st.integers(2, 30))
def test_pieces_are_bounded_and_lose_whitespace_only(text: str, limit: int) -> None:
    found = pieces(text, limit, estimated_tokens)
    assert all(estimated_tokens(piece) <= limit for piece in found)
    assert "".join("".join(found).split()) == "".join(text.split())


def test_paragraphs_are_packed_and_not_cut() -> None:
    # A blank line costs two tokens: 4 + 2 + 4 fit into 10, another does not.
    text = "\n\n".join(["one two three four."] * 5)
    assert pieces(text, 10, words) == ["one two three four.\n\none two three four."] * 2 + ["one two three four."]
    assert pieces("short", 10, words) == ["short"]


def test_a_long_paragraph_is_cut_after_a_sentence_then_between_words() -> None:
    assert pieces("a b c. d e f. g h i. j k l.", 6, words) == ["a b c. d e f.", "g h i. j k l."]
    assert pieces("a b c d e f g h", 5, words) == ["a b c d", "e f g h"]


def test_a_heading_goes_with_what_it_heads() -> None:
    assert pieces("Some text of five words.\n\nMethods\n\nWe measured what there was.", 9, words) == [
        "Some text of five words.",
        "Methods\n\nWe measured what there was.",
    ]


def test_pieces_fit_the_real_tokenizer(tiny_base: Path) -> None:
    count = token_counter(tiny_base)
    text = "\n\n".join(
        f"Paragraph {i}. " + "Gout is a disease of the joints. " * (i % 7) + "é𝛼" * (i % 3) for i in range(60)
    )
    for limit in (32, 61, 128):
        found = pieces(text, limit, count)
        assert max(map(count, found)) <= limit
        assert "".join("".join(found).split()) == "".join(text.split())
    # Full pieces, where no paragraph had to be cut: two neighbors would not fit into one.
    assert all(count(a) + count(b) > 124 for a, b in pairwise(found))


def test_a_folder_without_a_tokenizer_is_an_error_and_a_hub_name_an_estimate(tmp_path: Path) -> None:
    assert tokenizer_folder("meta-llama/Llama-2-7b-hf") is None
    with pytest.raises(InputError, match=r"holds no tokenizer\.model"):
        tokenizer_folder(str(tmp_path))
    assert token_counter(None)("12345678") == 2
