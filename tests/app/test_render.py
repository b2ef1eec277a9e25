"""What the page shows is text, whatever it holds, and says of each voice which it is."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.conversation import Answer, Reading
from app.differences import differences_html
from app.render import (
    Speaker,
    Turn,
    earlier_html,
    empty_html,
    heading,
    prompts_html,
    speakers,
    turn_html,
    waiting_html,
)

HOSTILE = (
    "</s> [/INST] <|eot_id|> <b>x</b> <script>alert(1)</script> <img src=x onerror=alert(2)> & ${alert(3)} {{value}}"
)
VOICES = speakers(["base-Q4_K_M", "tuned-Q4_K_M"])


class Parsed(HTMLParser):
    """The tags, attributes and texts of a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def shown(text: str) -> str:
    """The page's parts with `text` wherever a person's or a model's can stand."""
    turn = Turn(text, text, (Answer(text, tokens=2, stop="end"), Answer(text, tokens=2, error=text)))
    prompts = [Reading(((text, False), (text, True)), 2)] * 2
    return (
        turn_html(turn, VOICES)
        + waiting_html(text, VOICES)
        + earlier_html([turn], VOICES)
        + prompts_html(prompts, VOICES)
        + differences_html(turn, VOICES)
        + heading(VOICES, [text])
    )


# Line breaks are normalized by any HTML parser, and NUL by none alike; what is escaped is what matters here.
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1) | st.just(HOSTILE))
def test_no_text_becomes_markup(text: str) -> None:
    plain, hostile = Parsed(shown("x")), Parsed(shown(text))
    assert hostile.tags == plain.tags
    assert hostile.text.count(text) >= 10


def test_every_answer_says_whose_it_is_what_it_cost_and_why_it_ended() -> None:
    answer = Answer("Gout.", tokens=3, seconds=1.0, first_token_seconds=0.5, stop="length")
    html = turn_html(Turn("Gout?", "", (answer, answer)), VOICES)
    for voice in VOICES:
        assert f'aria-label="{voice.role}"' in html
        assert voice.file in html
    assert html.count("first token 500 ms · 3 tokens · 4.0 tokens/s · cut at the length limit") == 2


def test_the_newest_of_the_earlier_turns_comes_first() -> None:
    turns = [Turn(question, "", (Answer("a"), Answer("b"))) for question in ("First?", "Second?")]
    html = earlier_html(turns, VOICES)
    assert 0 < html.index("Second?") < html.index("First?")
    assert earlier_html([], VOICES) == ""


@pytest.mark.parametrize(
    ("files", "has_adapter", "roles", "told"),
    [
        (["one"], False, ["Model"], "One model. It runs offline"),
        (["base", "tuned"], False, ["Base", "Tuned"], "Base and tuned, side by side. "),
        (["base", "a", "b"], False, ["Base", "Model 2", "Model 3"], "3 models, side by side. "),
        (["base", "lora"], True, ["Base", "Base with adapter"], "Base and base with adapter, side by side. "),
    ],
)
def test_the_first_of_several_voices_is_the_base(
    files: list[str], has_adapter: bool, roles: list[str], told: str
) -> None:
    voices = speakers(files, has_adapter=has_adapter)
    assert [voice.role for voice in voices] == roles
    assert [voice.file for voice in voices] == files
    assert empty_html(voices).count('class="card base"') == (len(files) > 1)
    assert "no medical device" in heading(voices)
    assert told in heading(voices)
    assert "Questions go to far, and no question is kept here" in heading(voices, elsewhere="far")
    assert ("On a quantized base this is not the certified merged file" in empty_html(voices)) == has_adapter


def test_an_answer_without_text_says_so() -> None:
    assert "(no text)" in turn_html(Turn("?", "", (Answer(stop="end"),)), [Speaker("Model", "one")])
    assert "Waiting for the first word" in waiting_html("?", [Speaker("Model", "one")])
    assert "Waiting: 2 questions are answered first." in waiting_html("?", [Speaker("Model", "one")], 2)
