"""The flags of `medllama app` and `medllama chat`: what is refused, and what a recipe gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.config import AppConfig, ChatConfig
from medllama.pipeline import configure
from medllama.recipe import load_recipe
from medllama.stages import BY_NAME


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"model": ()}, "model: 0 models cannot stand side by side, 1 to 4 can"),
        ({"model": ("a",) * 5}, "model: 5 models cannot stand side by side, 1 to 4 can"),
        ({"model": ("a", "b"), "adapter_gguf": Path("c")}, "adapter_gguf: name the base as the only model"),
        ({"host": "0.0.0.0"}, "host: 0.0.0.0 is open to the network and needs a --password-file"),
        ({"host": "192.168.1.2"}, "host: 192.168.1.2 is open to the network and needs a --password-file"),
        ({"host": "example.org"}, "host: example.org is open to the network and needs a --password-file"),
        (
            {"adapter_gguf": Path("c"), "backend": "ollama"},
            "adapter_gguf: an Ollama server applies adapters by itself: name the model that has it",
        ),
        (
            {"ollama_host": "127.0.0.1:11434", "backend": "ollama"},
            "ollama_host: 127.0.0.1:11434 is no address such as http://127.0.0.1:11434",
        ),
        ({"max_seconds": 0.0}, "max_seconds: 0.0 must be above 0"),
        ({"port": 70000}, "port: 70000 must be 0 to 65535"),
        ({"temperature": -0.1}, "temperature: -0.1 must be 0 or more"),
        ({"top_p": 0.0}, "top_p: 0.0 must be above 0 and at most 1"),
        ({"seed": -1}, "seed: -1 must be 0 to 4294967295"),
        ({"max_tokens": 0}, "max_tokens: 0 must be 1 or more"),
        ({"context_tokens": 0}, "context_tokens: 0 must be 1 or more"),
        ({"threads": 0}, "threads: 0 must be 1 or more"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(given: dict[str, Any], problem: str) -> None:
    assert AppConfig(**{"model": ("a.gguf",)} | given).problems() == [problem]
    if hasattr(ChatConfig, next(iter(given))):
        assert ChatConfig(Path("a.gguf"), **given).problems() == [problem]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_this_machine_needs_no_password(host: str) -> None:
    assert AppConfig(("a.gguf",), host=host).problems() == []
    assert AppConfig(("a.gguf",), host="0.0.0.0", password_file=Path("secret")).problems() == []


def test_questions_go_elsewhere_with_an_ollama_server_of_another_machine_alone() -> None:
    def elsewhere(host: str, **given: Any) -> str:
        return AppConfig(("a",), ollama_host=host, **given).elsewhere

    assert elsewhere("http://user:secret@example.org:11434", backend="ollama") == "example.org"
    assert elsewhere("http://localhost:11434", backend="ollama") == elsewhere("http://example.org") == ""


def test_a_recipe_gives_the_runs_base_and_tuned_file_and_its_examples(tmp_path: Path) -> None:
    recipe = load_recipe("tiny")
    app = configure(BY_NAME["app"], recipe, tmp_path, {})
    assert app.model == (str(tmp_path / "gguf/tiny-base-Q4_K_M.gguf"), str(tmp_path / "gguf/tiny-Q4_K_M.gguf"))
    assert app.examples == recipe.examples != ()
    assert app.ratings == tmp_path / "ratings.sqlite"
    assert (app.evaluation, app.certificate) == (tmp_path / "eval/results.json", tmp_path / "certificate.json")
    chat = configure(BY_NAME["chat"], recipe, tmp_path, {})
    assert chat.gguf == tmp_path / "gguf/tiny-Q4_K_M.gguf"
