"""A template that Ollama could take for one of its own begins with a guard, which changes no prompt."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.checks import prompts
from medllama.chat import LLAMA2_TEMPLATE, LLAMA3_TEMPLATE, Chat, load_chat
from medllama.go_template import read_layout
from medllama.template_guard import GUARD, NEAREST_TAKEN, guarded
from tests.checkpoints import make_llama3_checkpoint
from tests.medllama.test_go_template import CHATML, conversation

TRIMS = "{%- for m in messages -%}{{- bos_token + m['role'] + m['content'] | trim + eos_token -}}{%- endfor -%}"


@pytest.fixture(scope="module")
def llama3(tmp_path_factory: pytest.TempPathFactory) -> Chat:
    chat = load_chat(make_llama3_checkpoint(tmp_path_factory.mktemp("base") / "llama3", num_hidden_layers=1))
    assert chat is not None
    return chat


def distance(text: str, other: str) -> int:
    """Levenshtein's: the fewest characters to put in, take out or change, to make one text of the other."""
    row = list(range(len(other) + 1))
    for number, character in enumerate(text, start=1):
        before, row[0] = row[0], number
        for place, its in enumerate(other, start=1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (character != its))
    return row[-1]


def test_the_distance_is_levenshteins() -> None:
    assert [distance(*pair) for pair in (("kitten", "sitting"), ("", "abc"), ("abc", "abc"), ("ab", "ba"))] == [
        3,
        3,
        0,
        2,
    ]


@pytest.mark.parametrize("other", ["", TRIMS, CHATML, LLAMA2_TEMPLATE, LLAMA3_TEMPLATE, "{{ bos_token }}" + TRIMS])
def test_no_template_is_near_a_guarded_one(other: str) -> None:
    assert distance(GUARD + TRIMS, other) >= NEAREST_TAKEN
    assert distance(TRIMS, TRIMS.replace("eos_token", "'</s>'")) < NEAREST_TAKEN, (
        "which without the guard would be taken"
    )


@given(st.text(st.characters(codec="ascii", exclude_characters="~"), max_size=400))
@settings(max_examples=30, deadline=None)
def test_the_guard_alone_is_far_from_every_text_without_its_character(other: str) -> None:
    assert distance(GUARD + "short", other) >= NEAREST_TAKEN


@pytest.mark.parametrize(
    "template", [TRIMS, "\n" + TRIMS, "  \n\n" + TRIMS, "   " + TRIMS.replace("{%-", "{%"), "\ttext " + TRIMS, "{# a #}\n" + TRIMS]
)  # fmt: skip
def test_what_has_no_go_counterpart_gets_the_guard_and_renders_the_same(template: str, llama3: Chat) -> None:
    chat = Chat(template, llama3.tokenizer)
    safe = guarded(chat)
    assert safe.template == GUARD + template
    assert guarded(safe) is safe
    for turns in (1, 2, 3):
        for system in (False, True):
            messages = conversation(turns, system, " {}\n")
            assert safe.render(messages) == chat.render(messages)
            assert safe.encode(messages) == chat.encode(messages)


def test_a_template_with_a_go_counterpart_stays_as_it_is(llama3: Chat) -> None:
    assert guarded(llama3) is llama3
    read_layout(llama3)


def test_a_file_that_lacks_its_guard_is_told_so() -> None:
    assert "the guard before it is missing" in prompts._cause(TRIMS, GUARD + TRIMS)


def test_the_guard_is_one_line_of_a_jinja_comment() -> None:
    assert GUARD.startswith("{#")
    assert GUARD.endswith("#}\n")
    assert GUARD.count("\n") == 1
