"""`KIND:PATH?licence=SPDX`: what is meant is found, what is wrong is said with what was probably meant."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.data.licences import needs_permission
from finetune.prepare_config import PrepareConfig
from finetune.sources import MODULES, SourceRequest, load_source, parse
from tests.conftest import REPOSITORY


@pytest.mark.parametrize(
    ("given", "request_"),
    [
        ("tiny", SourceRequest("tiny")),
        ("medquad:a/b", SourceRequest("medquad", Path("a/b"))),
        ("text:a,b:c.txt?licence=mit", SourceRequest("text", Path("a,b:c.txt"), "MIT")),
        ("jsonl:a.jsonl?", SourceRequest("jsonl", Path("a.jsonl"))),
        ("jsonl:~/a.jsonl", SourceRequest("jsonl", Path.home() / "a.jsonl")),
    ],
)
def test_a_source_is_taken_apart(given: str, request_: SourceRequest) -> None:
    assert parse(given) == request_


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("medqad:x", "'medqad:x' is of an unknown kind 'medqad'; did you mean medquad?"),
        ("data.jsonl", "'data.jsonl' is of an unknown kind 'data.jsonl'; did you mean jsonl?"),
        ("zzz:x", f"'zzz:x' is of an unknown kind 'zzz'; known are {', '.join(MODULES)}"),
        ("tiny:x", "'tiny:x' takes no path; write tiny"),
        ("medquad", "'medquad' has no path; write medquad:DIR"),
        ("jsonl:?licence=MIT", "'jsonl:?licence=MIT' has no path; write jsonl:FILE?licence=SPDX"),
        ("text:a?license=MIT", "'text:a?license=MIT' has an unknown setting 'license'; known is licence"),
        (
            "medquad:a?licence=MIT",
            "'medquad:a?licence=MIT' states a licence, but medquad has its own (CC-BY-4.0); take it out",
        ),
        (
            "text:a?licence=CC BY 4.0",
            "'text:a?licence=CC BY 4.0': 'CC BY 4.0' is no SPDX licence; did you mean CC-BY-4.0?",
        ),
        (
            "text:a?licence=",
            "'text:a?licence=': '' is no SPDX licence; write one like MIT, CC-BY-4.0 or LicenseRef-my-terms",
        ),
    ],
)
def test_a_wrong_source_is_a_problem_of_the_configuration(given: str, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        parse(given)
    assert PrepareConfig(source=(given,), output_dir=Path("out")).problems() == [f"source: {problem}"]


def test_no_source_at_all_is_a_problem() -> None:
    assert PrepareConfig(source=(), output_dir=Path("out")).problems() == [
        "source: name at least one, such as tiny or jsonl:FILE"
    ]


def test_every_kind_loads_and_its_example_shows_its_own_name() -> None:
    for kind in MODULES:
        source = load_source(kind)
        assert source.example.split(":")[0] == kind
        assert source.attribution


def test_the_configuration_loads_no_parser() -> None:
    code = "import sys, finetune.prepare_config; print([m for m in ('lxml', 'yaml', 'numpy', 'torch') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_kind_stands_in_the_docs_with_its_licence() -> None:
    table = (REPOSITORY / "docs" / "sources.md").read_text()
    for kind in MODULES:
        [row] = re.findall(rf"^\| `{kind}[:`].*$", table, flags=re.MULTILINE)
        source = load_source(kind)
        assert (source.licence or ("yours to state" if source.is_own else "each article's own")) in row
        assert ("refused unless allowed" in row) is (source.licence is not None and needs_permission(source.licence))
