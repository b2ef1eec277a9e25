"""Parameters reach Ollama in the types that it declares; wrong ones would only fail when the model is loaded."""

from __future__ import annotations

import pytest

from medllama.errors import InputError
from publish.modelfile import Command
from publish.parameters import parse_parameters


def parameter(key: str, value: str) -> Command:
    return Command("parameter", value, key)


def test_each_has_its_type_and_stop_is_a_list_even_alone() -> None:
    found = parse_parameters(
        [
            Command("from", "./a.gguf"),
            parameter("stop", "</s>"),
            parameter("temperature", "1"),
            parameter("num_ctx", "1024"),
            parameter("use_mmap", "false"),
        ]
    )
    assert found == {"stop": ["</s>"], "temperature": 1.0, "num_ctx": 1024, "use_mmap": False}
    assert [type(value) for value in found.values()] == [list, float, int, bool]


def test_stops_add_up_and_of_others_the_last_counts() -> None:
    given = [parameter("stop", "a"), parameter("top_k", "1"), parameter("stop", "b"), parameter("top_k", "2")]
    assert parse_parameters(given) == {"stop": ["a", "b"], "top_k": 2}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temprature", "1"),
        ("mirostat", "1"),
        ("num_ctx", "1.5"),
        ("top_p", "x"),
        ("use_mmap", "yes"),
        ("Temperature", "1"),
        ("typical_p", "1"),
        ("system", "be kind"),
        ("num_ctx", "4_096"),
        ("temperature", "nan"),
        ("temperature", "0.2 # low"),
        ("seed", "9223372036854775808"),
        ("repeat_penalty", "1e39"),
        ("temperature", "1e400"),
    ],
)
def test_what_ollama_would_not_take_is_refused_by_name(key: str, value: str) -> None:
    with pytest.raises(InputError, match=key):
        parse_parameters([parameter(key, value)])
