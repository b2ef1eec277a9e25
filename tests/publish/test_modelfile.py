"""What is written into a Modelfile is what Ollama reads out of it, or it is refused by name."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medllama.errors import InputError
from publish.modelfile import BLOCK_COMMANDS, COMMANDS, ROLES, Command, is_kept, read_modelfile, write_modelfile

FROM = Command("from", "./medllama-Q4_K_M.gguf")
ANY_TEXT = st.text(
    st.characters(codec="utf-8", categories=("L", "M", "N", "P", "S", "Zs")) | st.sampled_from('"\n\r\t #')
)
WRITABLE = ANY_TEXT.filter(lambda text: '"""' not in text and all(is_kept(character) for character in text))


def commands() -> st.SearchStrategy[Command]:
    plain = st.builds(
        Command, st.sampled_from([name for name in COMMANDS if name not in ("parameter", "message")]), WRITABLE
    )
    parameter = st.builds(Command, st.just("parameter"), WRITABLE, st.sampled_from(["stop", "num_ctx", "temperature"]))
    message = st.builds(Command, st.just("message"), WRITABLE, st.sampled_from(ROLES))
    return plain | parameter | message


@settings(deadline=None)
@given(st.lists(commands()), st.lists(st.text(st.characters(codec="ascii", exclude_categories=("C",)))))
def test_what_is_written_reads_back(given_commands: list[Command], comments: list[str]) -> None:
    expected = [FROM, *given_commands]
    assert read_modelfile(write_modelfile(expected, comments)) == expected


@settings(deadline=None)
@given(ANY_TEXT)
def test_a_value_is_written_exactly_or_refused(text: str) -> None:
    commands = [FROM, Command("template", text)]
    if '"""' in text or not all(is_kept(character) for character in text):
        with pytest.raises(InputError, match=r"^TEMPLATE holds "):
            write_modelfile(commands)
    else:
        assert read_modelfile(write_modelfile(commands)) == commands


def test_commands_are_laid_out_for_people() -> None:
    written = write_modelfile(
        [
            FROM,
            Command("parameter", "</s>", "stop"),
            Command("parameter", "0.2", "temperature"),
            Command("template", "{{ .Prompt }}"),
            Command("license", "MIT License\n\nPermission"),
        ],
        ["made by medllama"],
    )
    assert written == (
        '# made by medllama\n\nFROM ./medllama-Q4_K_M.gguf\nPARAMETER stop "</s>"\nPARAMETER temperature 0.2\n\n'
        'TEMPLATE """{{ .Prompt }}"""\n\nLICENSE """MIT License\n\nPermission"""\n'
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('say """ now', "SYSTEM holds three quotes in a row, which a Modelfile cannot"),
        ("no\u00a0break", "SYSTEM holds U+00A0 at character 2, which Ollama drops from a Modelfile"),
        ("\x0cnew page", "SYSTEM holds U+000C at character 0, which Ollama drops from a Modelfile"),
    ],
)
def test_a_text_that_cannot_be_written_is_refused_by_name(text: str, problem: str) -> None:
    with pytest.raises(InputError) as refused:
        write_modelfile([FROM, Command("system", text)])
    assert refused.value.message == problem


def test_the_grammar_of_other_peoples_modelfiles() -> None:
    text = (
        '\ufeff# a comment\r\nfrom llama3.2\r\n  # another, after spaces\nPARAMETER   x\nparameter stop "<|eot_id|>"  \n'
        'SYSTEM You are "Mario" # no comment\nTEMPLATE """\nfirst """ second\n{{ .Prompt }}\n"""\n'
        'message user "two\nlines"\nLICENSE """one"""\nLICENSE a\u200bb'
    )
    assert read_modelfile(text) == [
        Command("from", "llama3.2"),
        # Two spaces end the parameter's name before it begins: what Ollama makes of it, and then refuses as unknown.
        Command("parameter", "x", ""),
        Command("parameter", "<|eot_id|>", "stop"),
        Command("system", 'You are "Mario" # no comment'),
        Command("template", '\nfirst """ second\n{{ .Prompt }}\n'),
        Command("message", "two\nlines", "user"),
        Command("license", "one"),
        Command("license", "ab"),
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("SYSTEM hello\n", "the Modelfile has no FROM line"),
        ("FROM a\nSTOP b\n", "Modelfile line 2: 'stop' is no command"),
        ("FROM\n", "Modelfile line 1: a command ends in '\\n' where a space was expected: 'FROM'"),
        ("FROM a\nSYSTEM Be\nkind\n", "Modelfile line 3: a command ends in '\\n' where a space was expected: 'kind'"),
        ("FROM a\nMESSAGE doctor hi\n", "Modelfile line 2: 'doctor' is no role"),
        ('FROM a\nSYSTEM """open\n', "Modelfile line 2: a quoted text that begins there is not closed"),
        ('FROM a\nSYSTEM "open\n', "Modelfile line 2: a quoted text that begins there is not closed"),
        ("FROM a\nLICENSE", "Modelfile line 2: the file ends in a command"),
    ],
)
def test_what_ollama_refuses_is_refused_with_its_line(text: str, problem: str) -> None:
    with pytest.raises(InputError) as refused:
        read_modelfile(text)
    assert refused.value.message.startswith(problem)


def test_one_character_that_is_dropped_may_stand_before_a_command() -> None:
    assert read_modelfile("\u00a0FROM a\n\u200bSYSTEM b") == [Command("from", "a"), Command("system", "b")]
    with pytest.raises(InputError, match="line 1: a command ends in"):
        read_modelfile("\u00a0\u00a0FROM a")


def test_block_commands_take_several_lines() -> None:
    for name in BLOCK_COMMANDS:
        command = Command(name, 'a "quoted" line\n\n and another "', "user" if name == "message" else "")
        assert read_modelfile(write_modelfile([FROM, command]))[1] == command
