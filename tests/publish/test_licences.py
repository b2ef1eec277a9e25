"""A licence is read from the base, never assumed, and what it asks for is asked for. The licence texts here are mock-ups."""

from __future__ import annotations

from pathlib import Path

import pytest

from medllama.errors import InputError, UnsupportedError
from publish.licences import check_ollama_name, identify, read_terms

LLAMA2 = """LLAMA 2 COMMUNITY LICENSE AGREEMENT
(a mock-up for tests)
retain the following attribution notice within a "Notice" text file: "Llama 2 is licensed under the LLAMA 2
Community License, Copyright (c) Meta Platforms, Inc. All Rights Reserved."
"""
LLAMA32 = """LLAMA 3.2 COMMUNITY LICENSE AGREEMENT
(a mock-up for tests)
prominently display “Built with Llama” on a related website, and retain: “Llama 3.2 is licensed under the Llama 3.2
Community License, Copyright © Meta Platforms, Inc. All Rights Reserved.”
"""
# The first Llama 3 has words of its own: for the notice, for what is shown and for the name.
LLAMA3 = """META LLAMA 3 COMMUNITY LICENSE AGREEMENT
(a mock-up for tests)
prominently display “Built with Meta Llama 3” on a related website. What is made of it shall also have “Llama 3” at the
beginning of its name, and a notice: “Meta Llama 3 is licensed under the Meta Llama 3 Community License, Copyright ©
      Meta Platforms, Inc. All Rights Reserved.”
"""


def base(folder: Path, **files: str) -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / name.replace("_txt", ".txt").replace("_md", ".md")).write_text(text, encoding="utf-8")
    return folder


def test_a_base_without_a_licence_is_refused_with_the_file_to_put_there(tmp_path: Path) -> None:
    folder = base(tmp_path / "base", README_md="license: mit", NOTICE="notice")
    with pytest.raises(InputError) as refused:
        read_terms(folder)
    assert refused.value.message == f"{folder} has no licence text: no LICENSE, LICENSE.txt or LICENSE.md in it"
    assert str(folder / "LICENSE") in refused.value.hint


def test_an_empty_licence_is_no_licence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is empty"):
        read_terms(base(tmp_path / "base", LICENSE=" \n"))


def test_all_texts_of_the_base_travel(tmp_path: Path) -> None:
    folder = base(tmp_path / "base", LICENSE_txt=LLAMA2, USE_POLICY_md="policy", NOTICE="notice", README_md="no")
    terms = read_terms(folder)
    assert terms.identifier == "llama2"
    assert terms.texts == {"LICENSE.txt": LLAMA2, "USE_POLICY.md": "policy", "NOTICE": "notice"}


def test_a_base_of_two_licences_is_asked_which_one_the_weights_have(tmp_path: Path) -> None:
    folder = base(tmp_path / "base", LICENSE="MIT License", LICENSE_txt="For research only.")
    with pytest.raises(InputError) as refused:
        read_terms(folder)
    assert refused.value.message == f"{folder} has more than one licence: LICENSE (mit), LICENSE.txt (other)"
    (folder / "LICENSE.txt").write_text("MIT License, again")
    assert read_terms(folder).identifier == "mit"


def test_the_notice_line_is_the_licences_own(tmp_path: Path) -> None:
    terms = read_terms(base(tmp_path / "base", LICENSE=LLAMA2))
    assert terms.notice_line == (
        "Llama 2 is licensed under the LLAMA 2 Community License, Copyright (c) Meta Platforms, Inc. All Rights Reserved."
    )
    assert terms.display_line == ""
    assert not terms.is_llama3


def test_a_llama_licence_whose_notice_is_not_found_is_refused(tmp_path: Path) -> None:
    short = "LLAMA 2 COMMUNITY LICENSE AGREEMENT"
    with pytest.raises(InputError, match="asks for an attribution notice"):
        read_terms(base(tmp_path / "base", LICENSE=short))
    assert read_terms(base(tmp_path / "other", LICENSE=short, NOTICE="the line")).notice == {"NOTICE": "the line"}


def test_llama3_wants_its_name_and_its_line_shown(tmp_path: Path) -> None:
    terms = read_terms(base(tmp_path / "base", LICENSE=LLAMA32))
    assert terms.identifier == "llama3.2"
    assert terms.display_line == "Built with Llama"
    with pytest.raises(InputError) as refused:
        terms.check_name("medllama")
    assert refused.value.message == (
        "the name 'medllama' does not begin with Llama, as Llama 3's licence asks of what is made from it"
    )
    assert refused.value.hint == "rename the model, for example: --name llama-medllama"
    with pytest.raises(InputError, match="for example: --to hf:ada/llama-med:v1") as refused:
        terms.check_name("med", "--to hf:ada/", ":v1")
    terms.check_name("Llama-medllama-1b")
    terms.check_name("llama-medllama-1b")


def test_the_first_llama3_is_taken_at_its_own_words(tmp_path: Path) -> None:
    terms = read_terms(base(tmp_path / "base", LICENSE=LLAMA3))
    assert terms.identifier == "llama3"
    assert terms.notice_line == (
        "Meta Llama 3 is licensed under the Meta Llama 3 Community License, Copyright ©"
        " Meta Platforms, Inc. All Rights Reserved."
    )
    assert terms.display_line == "Built with Meta Llama 3"
    for name in ("llama3-med", "Llama-3-med", "llama-3"):
        terms.check_name(name)


@pytest.mark.parametrize(("name", "example"), [("med", "llama-3-med"), ("llama-med", "llama-3-med")])
def test_the_first_llama3_wants_its_number_in_the_name(tmp_path: Path, name: str, example: str) -> None:
    terms = read_terms(base(tmp_path / "base", LICENSE=LLAMA3))
    with pytest.raises(InputError, match=f"the name '{name}' does not begin with Llama 3") as refused:
        terms.check_name(name)
    assert refused.value.hint == f"rename the model, for example: --name {example}"


@pytest.mark.parametrize(
    ("name", "config"), [("meta-llama/Llama-3.2-1B", "{}"), ("base", '{"_name_or_path": "meta-llama/Meta-Llama-3-8B"}')]
)
def test_llama3_is_also_known_by_name_and_config(tmp_path: Path, name: str, config: str) -> None:
    folder = base(tmp_path / "base", LICENSE="terms of a relabelled copy")
    (folder / "config.json").write_text(config)
    assert read_terms(folder, name).is_llama3


def test_the_name_of_a_folder_makes_no_llama3(tmp_path: Path) -> None:
    assert not read_terms(base(tmp_path / "llama3-packages", LICENSE="MIT License"), "someone/base").is_llama3


def test_a_model_of_three_billion_is_no_llama3(tmp_path: Path) -> None:
    assert not read_terms(base(tmp_path / "base", LICENSE="MIT License"), "someone/tinyllama-3b").is_llama3


@pytest.mark.parametrize(
    ("text", "identifier"),
    [
        ("MIT License\n\nCopyright", "mit"),
        ("                 Apache License\n           Version 2.0, January 2004", "apache-2.0"),
        ("META LLAMA 3 COMMUNITY LICENSE AGREEMENT", "llama3"),
        ("LLAMA 3.1 COMMUNITY LICENSE AGREEMENT", "llama3.1"),
        ("my own terms", ""),
    ],
)
def test_licences_are_known_by_their_own_text(text: str, identifier: str) -> None:
    assert identify(text) == identifier


@pytest.mark.parametrize("name", ["", "-med", ".med", "med llama", "med/llama", "med:llama", "é", "a" * 81])
def test_names_that_ollama_refuses(name: str) -> None:
    with pytest.raises(UnsupportedError, match="cannot be a model's name"):
        check_ollama_name(name)


@pytest.mark.parametrize("name", ["medllama", "_med", "Llama-medllama-1b", "llama3.2-med", "a" * 80])
def test_names_that_ollama_takes(name: str) -> None:
    check_ollama_name(name)
