"""An error read by a person on a page: whole sentences, names as they are written."""

from __future__ import annotations

import pytest

from medllama.errors import InputError


@pytest.mark.parametrize(
    ("message", "hint", "sentence"),
    [
        ("there is no question", "", "There is no question."),
        ("line 3 is not JSON", "one object a line", "Line 3 is not JSON. Hint: one object a line."),
        ("a.gguf does not exist", "medllama convert", "a.gguf does not exist. Hint: medllama convert."),
        ("llama.cpp said nothing", "", "llama.cpp said nothing."),
        ("medllama found no run", "", "medllama found no run."),
        ("10 wait", "is it late?", "10 wait. Hint: is it late?"),
    ],
)
def test_a_message_and_its_hint_are_whole_sentences(message: str, hint: str, sentence: str) -> None:
    assert InputError(message, hint=hint).sentence == sentence
