"""A TEMPLATE that is called broken is one that Go refuses; what it writes and asks for is found."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from medllama.errors import InputError
from publish.go_syntax import read_go_template

PROGRAM = Path(__file__).resolve().parent.parent / "go_template"

RIGHT = (
    "",
    "no action",
    "{{ .Prompt }}",
    "{{- if .System -}} a {{ .System }} {{- else -}} b {{ end }}",
    "{{/* a comment */}}",
    "{{- /* a\n}} comment */ -}}",
    '{{ range $i, $m := .Messages }}{{ if eq $m.Role "user" }}{{ $i }}{{ end }}{{ end }}',
    '{{ $a := "" }}{{ $a = print "x\\n" .System `raw\n"` }}{{ $a }}',
    "{{ range .Messages }}{{ .Role }}{{ else }}none{{ end }}",
    '{{ if eq .Role "a" }}{{ else if eq .Role "b" }}{{ else }}{{ end }}',
    '{{ define "t" }}{{ . }}{{ end }}{{ template "t" . }}',
    "{{ (index .Messages 0).Role }}",
    "{{ json .Tools | len }}",
    "{% if a %}",
    "a }} b",
    "{{ with .System }}{{ . }}{{ end }}",
    "{{ range .Messages }}{{ if .Role }}{{ continue }}{{ end }}{{ break }}{{ end }}",
    '{{"}}"}}',
    "{{\n.System\n}}",
    "{{ 1.5 }}",
    "{{ if $a := .System }}{{ $b := 1 }}{{ else }}{{ $a }}{{ $b }}{{ end }}",
    "{{ with $x := .System }}{{ $x }}{{ end }}",
    "{{ and (or true false) (not true) }}",
    # Found one by one where Go takes what one would not think:
    "{{eq  -}}",
    "{{ .Ünï.Á٣ }}",
    "{{ $größe := 1 }}{{ $größe }}",
    "{{ if $a := ($b := 1) }}{{ $b }}{{ end }}",
    "{{ $x = 1 }}{{ $x }}",
    '{{ block "b" $x := 1 }}{{ end }}{{ $x }}',
    "{{ range $i, $e := .Messages }}{{ $i }}{{ $e.Role }}{{ end }}",
    "{{ range $i := .Messages }}{{ else }}{{ $i }}{{ end }}",
    "{{ (print .A).B.C }}",
    "{{ $.A.B }}",
    "{{ print.A }}",
    "{{ .A | }}",
    "{{ 1i }} {{ 1+2i }} {{ 0x1F }} {{ 1e+5 }} {{ 0x1p-2 }} {{ -.5 }} {{ 1_000 }} {{ 0b1 }} {{ 0o7 }}",
    "{{ '_' }} {{ '\\n' }} {{ '\\'' }} {{ 'é' }} {{ '\"' }} {{ '\\x41' }}",
    '{{ "\\u00e9\\x41\\101\\U0001F600\\"" }}',
    "{{`a\nb`}}",
    "{{-3}}",
    "{{- /**/ -}}",
    "{{/* /* */}}",
    "{{/*/*/}}",
    "{{- .A -}}",
    "{{\t.A\r\n}}",
    "{{ .A\n-}}",
    "{{ . }}{{ $ }}",
    '{{ template "a" }}{{ define "a" }}{{ $ }}{{ end }}',
    "{{ range .A }}{{ with .B }}{{ break }}{{ end }}{{ end }}",
    "{{ print nil true . 'a' }}",
    "{{ nil }}",
    "{{ printf `%s` . | len }}",
)
WRONG = (
    ("{{ .Prompt", "not closed"),
    ("{{ if .System }}a", "has no {{ end }}"),
    ("a{{ end }}", "closes nothing"),
    ("{{ else }}", "outside of an if"),
    ("{{ if .A }}{{ else }}{{ else }}{{ end }}", "outside of an if"),
    ("{{ }}", "has nothing in it"),
    ("{{ if }}{{ end }}", "has nothing in it"),
    ("{{ message['content'] }}", "cannot hold"),
    ("{{ if eq .Role 'user' }}{{ end }}", "; a text stands in double quotes"),
    ("{{ $x }}", "is not declared"),
    ("{{ if .A }}{{ $x := 1 }}{{ end }}{{ $x }}", "is not declared"),
    ('{{ strftime_now("%d") }}', "there is no function"),
    ('{{ "open }}', "cannot hold"),
    ("{{ (.A }}", "not closed"),
    ("{{ .A) }}", "not open"),
    ("{{/* open }}", "a comment is not closed"),
    ('{{ if .Role == "user" }}{{ end }}', "'=' has no place there; equality is asked for by eq"),
    ("{{ .A, .B }}", "',' has no place there"),
    ("{{ $a, $b := .A }}", "',' has no place there"),
    ("{{ .A | 1 }}", "stands behind a |"),
    ("{{ range .A }}{{ else if .B }}{{ end }}", "'if' has no place there"),
    ("{{ else if }}", "outside of an if"),
    ("{{ if .A }}{{ else if }}{{ end }}", "{{ else if }} has nothing in it"),
    ("{{ end .A }}", "closes nothing"),
    ("{{ if .A }}{{ end .A }}", "'.A' has no place there"),
    ("{{ break }}", "outside of a range"),
    ("{{ range .A }}{{ else }}{{ continue }}{{ end }}", "outside of a range"),
    ("{{ template .A }}", "wants a name in quotes"),
    ('{{ if .A }}{{ define "t" }}{{ end }}{{ end }}', "stands inside of another"),
    ('{{ $x := 1 }}{{ define "t" }}{{ $x }}{{ end }}', "not declared"),
    ('{{ "a\\d" }}', "cannot hold"),
    ('{{ print"a" }}', "cannot hold"),
    ("{{ $x= 1 }}", "cannot hold"),
    ("{{ .A(.B) }}", "'(' has no place there"),
    ("{{ print if }}", "'if' has no place there"),
    ("{{ () }}", "has nothing in it"),
    ("{{ 1.A }}{{ true.A }}", "has no place there"),
    ("{{/* a */ }}", "a comment is not closed"),
    ("{{ range $i, .A }}{{ end }}", "'.A' has no place there"),
    ("{{ .Role % 2 }}", "cannot hold"),
    ("{{ bos_token }}", "there is no function 'bos_token'"),
    ("{{ .a - 1 }}", "cannot hold"),
)


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


@given(st.sampled_from([*RIGHT, *(text for text, _ in WRONG)]), st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_template_with_one_thing_changed_is_judged_as_go_judges_it(
    go_parses: Callable[[str], bool], text: str, data: st.DataObject
) -> None:
    words = re.findall(r'\s+|[{}]{2}|\w+|"[^"]*"|.', text) or [""]
    place = data.draw(st.integers(0, len(words) - 1))
    words[place] = data.draw(st.sampled_from([*PIECES, ""]))
    changed = "".join(words)
    # The inside of numbers is left to Go, and `else with` is of Go 1.23.
    assume(not re.search(r"\d[\w.+-]|else\s+with", changed))
    try:
        read_go_template(changed)
        is_taken = True
    except InputError:
        is_taken = False
    assert is_taken == go_parses(changed), changed


def test_texts_and_fields_are_found_in_their_order() -> None:
    found = read_go_template(
        '{{ if .System }}<s>[INST] {{ print "<<SYS>>" .System `raw` }}{{ end }}{{ $.Messages }}end'
    )
    assert found.texts == ["<s>[INST] ", "<<SYS>>", "raw", "end"]
    assert found.fields == {"System", "Messages"}


def test_hundreds_of_parentheses_are_told() -> None:
    with pytest.raises(InputError, match="nested too deep"):
        read_go_template("{{ " + "(" * 2000 + ".A" + ")" * 2000 + " }}")


def test_the_line_is_told() -> None:
    with pytest.raises(InputError, match="TEMPLATE line 3: there is no function 'foo'"):
        read_go_template("a\nb\n{{ foo }}")
