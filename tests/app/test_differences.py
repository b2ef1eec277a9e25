"""The marked text is both answers: without the insertions the one, without the deletions the other."""

from __future__ import annotations

import re
from html import unescape

from hypothesis import given
from hypothesis import strategies as st

from app.conversation import Answer
from app.differences import differences_html, marked, words
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
