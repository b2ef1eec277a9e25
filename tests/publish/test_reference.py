"""A name that Ollama, its hub or a registry would refuse is refused here first, with the name that would do."""

from __future__ import annotations

import pytest

from medllama.errors import InputError
from publish.reference import ModelName, check_for_registry, parse_name


@pytest.mark.parametrize(
    ("text", "name", "shown"),
    [
        ("medllama", ModelName("registry.ollama.ai", "library", "medllama"), "medllama"),
        ("medllama:q8_0", ModelName("registry.ollama.ai", "library", "medllama", "q8_0"), "medllama:q8_0"),
        ("ada/medllama", ModelName("registry.ollama.ai", "ada", "medllama"), "ada/medllama"),
        ("ada/llama3.2-med:q4_K_M", ModelName("registry.ollama.ai", "ada", "llama3.2-med", "q4_K_M"), "ada/llama3.2-med:q4_K_M"),
        ("lab.org:5000/ada/med", ModelName("lab.org:5000", "ada", "med"), "lab.org:5000/ada/med"),
        ("[::1]:5000/ada/med", ModelName("[::1]:5000", "ada", "med"), "[::1]:5000/ada/med"),
        ("localhost:5000/ada/med:v1", ModelName("localhost:5000", "ada", "med", "v1"), "localhost:5000/ada/med:v1"),
    ],
)  # fmt: skip
def test_names_that_ollama_takes(text: str, name: ModelName, shown: str) -> None:
    assert parse_name(text) == name
    assert str(name) == shown
    assert parse_name(str(name)) == name


def test_upper_case_is_told_with_the_name_in_lower_case() -> None:
    with pytest.raises(InputError) as refused:
        parse_name("Ada/MedLlama:q4_K_M")
    assert refused.value.hint == "write ada/medllama:q4_K_M"


@pytest.mark.parametrize(
    "text",
    ["", "/", "ada/", "/med", "med:", ":v1", "-med", ".med", "med llama", "a.b/med", "a/b/c/d", "é", "../med", "ada/..",
     "med:a/b", "lab:port/ada/med", "lab:99999/ada/med", "http://lab/ada/med", "lab:/ada/med", "a@b/ada/med",
     "a" * 81, "med:" + "a" * 81, "med\n"],
)  # fmt: skip
def test_names_that_ollama_refuses(text: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_name(text)
    assert refused.value.hint


@pytest.mark.parametrize("text", ["_ada/med", "ada/med-", "ada/med..b", "ada/med.-b"])
def test_names_that_only_a_registry_refuses(text: str) -> None:
    name = parse_name(text)
    with pytest.raises(InputError, match="cannot stand in a registry's path"):
        check_for_registry(name)


def test_names_that_a_registry_takes() -> None:
    for text in ("ada/med", "ada/med-1.0_b", "ada/a--b", "ada/a__b"):
        check_for_registry(parse_name(text))
