"""The marked text is both answers: without the insertions the one, without the deletions the other."""

from __future__ import annotations

import difflib
import re
from html import unescape
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.conversation import Answer
from app.differences import MOST_WORDS, differences_html, marked, words
from app.render import Turn, speakers

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=60) | st.sampled_from(
    ["a b c", "a  c, d", "<ins>x</ins>"]
)


@given(TEXT, TEXT)
def test_both_answers_can_be_read_from_what_is_marked(before: str, after: str) -> None:
    html = marked(before, after)
    assert unescape(re.sub(r"<del>|</del>", "", re.sub(r"<ins>[^<]*</ins>", "", html))) == before
    assert unescape(re.sub(r"<ins>|</ins>", "", re.sub(r"<del>[^<]*</del>", "", html))) == after
    assert "".join(words(before)) == before


def test_a_voice_without_an_answer_is_named_instead_of_compared() -> None:
    voices = speakers(["base", "one", "gone"])
    turn = Turn("?", "", (Answer("Yes.", stop="end"), Answer("No.", stop="end"), Answer(stop="failed", error="gone")))
    html = differences_html(turn, voices)
    assert html.count('<p class="difference">') == 1
    assert "Model 3 gave no answer." in html
    silent = Turn("?", "", (Answer(stop="failed"),) * 3)
    assert "Base and Model 2 gave no answer." in differences_html(silent, voices)


def test_what_both_say_is_not_marked() -> None:
    assert marked("The big toe.", "The little toe.") == "The <del>big </del><ins>little </ins>toe."
    assert marked("same", "same") == "same"


def test_a_model_that_repeats_itself_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = 0

    def counted(self: dict[str, list[int]], word: str, nothing: list[int]) -> list[int]:
        nonlocal looked_at
        looked_at += len(found := dict.get(self, word, nothing))
        return found

    class Places(dict[str, list[int]]):
        get = counted  # type: ignore[assignment]

    class Counting(difflib.SequenceMatcher[str]):
        def set_seq2(self, b: Any) -> None:
            super().set_seq2(b)
            self.b2j = Places(self.b2j)

    monkeypatch.setattr("app.differences.difflib.SequenceMatcher", Counting)
    html = marked("a " * 400, "b a " * 200)
    assert unescape(re.sub(r"<ins>|</ins>", "", re.sub(r"<del>[^<]*</del>", "", html))) == "b a " * 200
    assert looked_at < 400 * 400, "once each with each at most"


def test_what_is_not_compared_is_said() -> None:
    voices = speakers(["base", "tuned"])
    short, long = (Answer("a " * count, stop="end") for count in (MOST_WORDS, MOST_WORDS + 1))
    assert "the first 2,000 words" not in differences_html(Turn("?", "", (short, short)), voices)
    assert "the first 2,000 words" in differences_html(Turn("?", "", (short, long)), voices)
