"""A TEMPLATE that is called broken is one that Go refuses; what it writes and asks for is found."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medllama.errors import InputError
from publish.go_syntax import read_go_template

PROGRAM = Path(__file__).resolve().parent.parent / "go_template"

RIGHT = (
    "", "no action", "{{ .Prompt }}", "{{- if .System -}} a {{ .System }} {{- else -}} b {{ end }}", "{{/* a comment */}}",
    "{{- /* a\n}} comment */ -}}", '{{ range $i, $m := .Messages }}{{ if eq $m.Role "user" }}{{ $i }}{{ end }}{{ end }}',
    '{{ $a := "" }}{{ $a = print "x\\n" .System `raw\n"` }}{{ $a }}', "{{ range .Messages }}{{ .Role }}{{ else }}none{{ end }}",
    '{{ if eq .Role "a" }}{{ else if eq .Role "b" }}{{ else }}{{ end }}', '{{ define "t" }}{{ . }}{{ end }}{{ template "t" . }}',
    "{{ (index .Messages 0).Role }}", "{{ json .Tools | len }}", "{% if a %}", "a }} b", "{{ with .System }}{{ . }}{{ end }}",
    "{{ range .Messages }}{{ if .Role }}{{ continue }}{{ end }}{{ break }}{{ end }}", '{{"}}"}}', "{{\n.System\n}}", "{{ 1.5 }}",
    "{{ if $a := .System }}{{ $b := 1 }}{{ else }}{{ $a }}{{ $b }}{{ end }}",
    "{{ with $x := .System }}{{ $x }}{{ end }}", "{{ and (or true false) (not true) }}",
)  # fmt: skip
WRONG = (
    ("{{ .Prompt", "not closed"), ("{{ if .System }}a", "has no {{ end }}"), ("a{{ end }}", "closes nothing"),
    ("{{ else }}", "outside of an if"), ("{{ if .A }}{{ else }}{{ else }}{{ end }}", "outside of an if"),
    ("{{ }}", "has nothing in it"),
    ("{{ if }}{{ end }}", "has nothing in it"), ("{{ message['content'] }}", "cannot hold"), ("{{ $x }}", "is not declared"),
    ("{{ if .A }}{{ $x := 1 }}{{ end }}{{ $x }}", "is not declared"), ('{{ strftime_now("%d") }}', "there is no function"),
    ('{{ "open }}', "cannot hold"), ("{{ (.A }}", "not closed"), ("{{ .A) }}", "not open"),
    ("{{/* open }}", "a comment is not closed"),
    ("{{ .Role % 2 }}", "cannot hold"), ("{{ bos_token }}", "there is no function 'bos_token'"), ("{{ .a - 1 }}", "cannot hold"),
)  # fmt: skip


@pytest.fixture(scope="module")
def go_parses(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bool]:
    if shutil.which("go") is None:
        pytest.skip("Go is not installed (Debian: golang-go), so it is not asked")
    program = tmp_path_factory.mktemp("go") / "render"
    subprocess.run(["go", "build", "-o", program, "."], cwd=PROGRAM, check=True, timeout=300)

    def parses(text: str) -> bool:
        asked = json.dumps({"template": text, "conversations": []})
        return subprocess.run([program], input=asked, capture_output=True, text=True, timeout=60).returncode == 0

    return parses


@pytest.mark.parametrize("text", RIGHT)
def test_what_go_takes_is_taken(text: str, go_parses: Callable[[str], bool]) -> None:
    read_go_template(text)
    assert go_parses(text)


@pytest.mark.parametrize(("text", "problem"), WRONG)
def test_what_go_refuses_is_told(text: str, problem: str, go_parses: Callable[[str], bool]) -> None:
    with pytest.raises(InputError) as refused:
        read_go_template(text)
    assert problem in refused.value.message
    assert not go_parses(text)


PIECES = (
    "{{", "{{- ", "}}", " -}}", "if ", "else", "end", "range ", "$x", ":=", "=", ".Role", ".", '"a"', "`b`", "(", ")", "|", " ",
    "eq ", "print ", "text", "\n", "1", "'c'", "/*", "*/", "with ", "nil", "define ", ",", "-",
)  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=14))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_is_called_broken_that_go_takes(go_parses: Callable[[str], bool], pieces: list[str]) -> None:
    text = "".join(pieces)
    try:
        read_go_template(text)
    except InputError:
        assert not go_parses(text), text


def test_texts_and_fields_are_found_in_their_order() -> None:
    found = read_go_template(
        '{{ if .System }}<s>[INST] {{ print "<<SYS>>" .System `raw` }}{{ end }}{{ $.Messages }}end'
    )
    assert found.texts == ["<s>[INST] ", "<<SYS>>", "raw", "end"]
    assert found.fields == {"System", "Messages"}


def test_the_line_is_told() -> None:
    with pytest.raises(InputError, match="TEMPLATE line 3: there is no function 'foo'"):
        read_go_template("a\nb\n{{ foo }}")
