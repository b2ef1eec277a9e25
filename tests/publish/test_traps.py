"""What a Modelfile does in Ollama that its author did not mean is told with its line; what is right is left alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest

from medllama.errors import InputError
from publish.modelfile import Command, read_modelfile
from publish.parameters import FLOATS, INTEGERS
from publish.traps import Trap, find_traps
from tests.publish.packages import Made

TEMPLATE = (
    'TEMPLATE """{{ range .Messages }}{{ if eq .Role "user" }}[INST] {{ .Content }} [/INST]'
    '{{ else }}{{ .Content }}{{ end }}{{ end }}"""\n'
)
FROM, HEAT = "FROM ./model.gguf", "temperature 0.2"
RIGHT = f'FROM ./model.gguf\nPARAMETER stop "</s>"\nPARAMETER temperature 0.2\n{TEMPLATE}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, kind in (("model.gguf", "model"), ("lora.gguf", "adapter")):
        writer = gguf.GGUFWriter(tmp_path / name, "llama")
        writer.add_type(kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
    (tmp_path / "llama3.2").mkdir()
    (tmp_path / "text.gguf").write_text("no model")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\0" * 16)
    return tmp_path


def traps(text: str, folder: Path) -> list[str]:
    return [str(trap) for trap in find_traps(text, folder)]


def test_a_right_modelfile_has_none(folder: Path) -> None:
    assert traps(RIGHT, folder) == []


def test_what_medllama_writes_has_none_but_the_licence_note(made: Callable[..., Made]) -> None:
    out = made().package(system="Be brief.")
    found = find_traps((out / "Modelfile").read_text(encoding="utf-8"), out)
    assert {trap.problem.partition(" is ")[0] for trap in found} == {"LICENSE"}


# What stands in the place of a line of RIGHT (or after it), and what is said of it.
ERRORS = {
    "a missing file": (
        FROM,
        "FROM ./gone.gguf",
        "line 1: error: there is no file .*gone.gguf, so Ollama would ask for a model",
    ),
    "a missing file without ./": (FROM, "FROM gone.gguf", "so Ollama would ask for a model 'gone.gguf'"),
    "a comment after FROM": (FROM, "FROM ./model.gguf # mine", "there is no file .*a # begins no comment there"),
    "a folder named like the model": (FROM, "FROM llama3.2", "llama3.2 is a folder, and Ollama takes it rather than"),
    "no GGUF": (FROM, "FROM ./text.gguf", "text.gguf is no GGUF"),
    "an adapter in FROM": (FROM, "FROM ./lora.gguf", "lora.gguf is an adapter, no model"),
    "two FROM": (FROM, "FROM ./model.gguf\nFROM ./model.gguf", "line 2: error: FROM stands in line 1 already"),
    "an unknown parameter": (
        HEAT,
        "temprature 0.2",
        "'temprature' is no parameter of Ollama; did you mean temperature?",
    ),
    "a parameter in upper case": (
        HEAT,
        "Temperature 0.2",
        "'Temperature' is no parameter of Ollama; did you mean temperature?",
    ),
    "a command as a parameter": (
        HEAT,
        "system Be kind",
        "'system' is no parameter of Ollama; SYSTEM is a command of its own",
    ),
    "a wrong type": (HEAT, "num_ctx 4096.0", "line 3: error: PARAMETER num_ctx '4096.0' is not a whole number"),
    "a comment after a value": (
        HEAT,
        "temperature 0.2 # low",
        "is not a number; a # later in a line begins no comment",
    ),
    "a parameter that newer ones refuse": (
        HEAT,
        "typical_p 0.2",
        "'typical_p' is no parameter of Ollama; newer versions",
    ),
    "an open quote": (
        'stop "</s>"\nPARAMETER temperature 0.2',
        'stop "</s>" # end\nPARAMETER temperature 0.2\nSYSTEM "a"',
        "line 2: error: PARAMETER stop takes in the lines that follow",
    ),
    "Jinja": (TEMPLATE, "TEMPLATE {% for m in messages %}{{ message['content'] }}{% endfor %}\n", "TEMPLATE is Jinja"),
    "a broken TEMPLATE": (
        TEMPLATE,
        "TEMPLATE {{ if .System }}{{ .Prompt }}\n",
        "Ollama refuses the TEMPLATE: .*has no {{ end }}",
    ),
    "BOS": (
        TEMPLATE,
        'TEMPLATE """{{ if .System }}<s>[INST] {{ end }}{{ .Prompt }}{{ .Response }}"""\n',
        "begins with <s>, and the server adds it",
    ),
    "BOS of Llama 3": (
        TEMPLATE,
        'TEMPLATE """{{ "<|begin_of_text|>" }}{{ .Prompt }}{{ .Response }}"""\n',
        "begins with <.begin_of_text.>",
    ),
    "no question": (TEMPLATE, "TEMPLATE [INST] {{ .Response }}\n", "the question is not in it"),
    "a field in lower case": (
        TEMPLATE,
        "TEMPLATE {{ .prompt }}{{ .Prompt }}{{ .Response }}\n",
        "there is no .prompt; write .Prompt",
    ),
    "RENDERER": (TEMPLATE, TEMPLATE + "RENDERER llama3\n", "line 5: error: RENDERER takes the place of the TEMPLATE"),
    "PARSER": (TEMPLATE, TEMPLATE + "PARSER llama3\n", "PARSER takes the place"),
    "DRAFT": (TEMPLATE, TEMPLATE + "DRAFT ./model.gguf\n", "DRAFT names a second model"),
    "MESSAGE": (TEMPLATE, TEMPLATE + "MESSAGE user hi\n", "MESSAGE puts turns before every conversation"),
    "CAPABILITY": (TEMPLATE, TEMPLATE + "CAPABILITY decision\n", "CAPABILITY claims what nothing has checked"),
    "two spaces": (
        "PARAMETER temperature",
        "PARAMETER  temperature",
        "one space stands between PARAMETER and the name",
    ),
    "a version": (TEMPLATE, TEMPLATE + "REQUIRES latest\n", "'latest' is no version"),
    "a missing adapter": (FROM, "FROM base\nADAPTER ./gone.gguf", "line 2: error: there is no file .*gone.gguf"),
    "PEFT's own adapter": (
        FROM,
        "FROM base\nADAPTER ./adapter_model.safetensors",
        "adapter_model.safetensors is no GGUF: Ollama reads",
    ),
    "a folder as an adapter": (FROM, "FROM base\nADAPTER .", "is no GGUF: Ollama reads"),
    "a model as an adapter": (FROM, "FROM base\nADAPTER ./model.gguf", "model.gguf is no adapter"),
}
WARNINGS = {
    "FROM without ./": (
        FROM,
        "FROM model.gguf",
        "line 1: warning: were model.gguf missing, Ollama would ask for a model",
    ),
    "a deprecated parameter": (HEAT, "mirostat 1", "line 3: warning: Ollama takes no notice of mirostat"),
    "no stop": ('PARAMETER stop "</s>"\n', "", "no stop is named"),
    "an open quote in a text": (
        TEMPLATE,
        f'SYSTEM "Be kind." # really\nPARAMETER top_k 1\n{TEMPLATE}SYSTEM "b"\n',
        "line 4: warning: SYSTEM takes in a line that begins with PARAMETER",
    ),
    "no TEMPLATE": (TEMPLATE, "", "there is no TEMPLATE, so Ollama may take a built-in one"),
    "two TEMPLATE": (
        TEMPLATE,
        TEMPLATE + TEMPLATE,
        "line 4: warning: TEMPLATE stands again in line 5, and only that counts",
    ),
    "a parameter twice": (
        HEAT,
        "temperature 1\nPARAMETER temperature 0.2",
        "PARAMETER temperature stands again in line 4",
    ),
    "single quotes": ('stop "</s>"', "stop '</s>'", "line 2: warning: the single quotes are a part of PARAMETER stop"),
    "an escape": ('stop "</s>"', 'stop "\\n"', "in a stop is two characters"),
    "a character that is dropped": (HEAT, "temperature\t0.2\u00a0", "line 3: warning: Ollama drops U.00A0"),
    "turns that do not end": (TEMPLATE, "TEMPLATE [INST] {{ .Prompt }} [/INST]\n", "so nothing ends an earlier answer"),
    "a field that Ollama does not know": (
        TEMPLATE,
        "TEMPLATE {{ .Prompt }}{{ .Question }}{{ .Response }}\n",
        "line 4: warning: Ollama knows no .Question",
    ),
    "a lost SYSTEM": (
        TEMPLATE,
        "TEMPLATE {{ .Prompt }}{{ .Response }}\nSYSTEM Be kind.\n",
        "TEMPLATE has no .System, so SYSTEM is dropped",
    ),
    "LICENSE": (TEMPLATE, TEMPLATE + "LICENSE MIT\n", "line 5: warning: LICENSE is not taken over"),
    "no temperature": (
        HEAT,
        "temperature -3",
        "line 3: warning: PARAMETER temperature -3 is hardly meant; write 0 to 2",
    ),
    "no share": (HEAT, "top_p 3", "PARAMETER top_p 3 is hardly meant; write 0 to 1"),
    "no context": (HEAT, "num_ctx 0", "PARAMETER num_ctx 0 is hardly meant; write 1 or more"),
    "a penalty that turns answers around": (
        HEAT,
        "repeat_penalty 0",
        "repeat_penalty 0 is hardly meant; write 0.5 to 2",
    ),
    "an empty stop": (HEAT, 'stop ""', "line 3: warning: the stop is empty"),
    "line ends of Windows": (
        TEMPLATE,
        TEMPLATE + 'SYSTEM """Be\r\nkind."""\r\n',
        "line 5: warning: SYSTEM has Windows' line ends, which the model is shown",
    ),
    "an adapter at all": (
        FROM,
        "FROM base\nADAPTER ./lora.gguf",
        "line 2: warning: Ollama 0.34.1 and newer refuse ADAPTER",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_ollama_refuses_or_turns_into_something_else_is_an_error(name: str, folder: Path) -> None:
    old, new, said = ERRORS[name]
    assert old in RIGHT
    found = find_traps(RIGHT.replace(old, new), folder)
    assert [trap for trap in found if trap.severity == "error"]
    _says(found, said)


@pytest.mark.parametrize("name", WARNINGS)
def test_what_works_and_is_hardly_meant_is_a_warning(name: str, folder: Path) -> None:
    old, new, said = WARNINGS[name]
    assert old in RIGHT
    found = find_traps(RIGHT.replace(old, new), folder)
    assert {trap.severity for trap in found} == {"warning"}
    _says(found, said)


def _says(found: list[Trap], said: str) -> None:
    assert re.search(said, "\n".join(map(str, found))), "\n".join(map(str, found))


@pytest.mark.parametrize("value", ["0", "-0.0", "2", "1e-2"])
def test_a_temperature_that_makes_sense_is_no_trap(value: str, folder: Path) -> None:
    assert traps(RIGHT.replace(HEAT, f"temperature {value}"), folder) == []


@pytest.mark.parametrize(
    ("bos", "adds", "begins", "is_trap"),
    [
        ("<bos>", None, "<bos>", True),
        ("<bos>", True, "<bos>", True),
        ("<bos>", None, "<s>", False),
        ("<bos>", False, "<bos>", False),
        ("", None, "<s>", True),
    ],
)
def test_what_bos_is_the_models_own_file_says(
    bos: str, adds: bool | None, begins: str, is_trap: bool, folder: Path
) -> None:
    """With no BOS in the file it is what Llama's are; where the server adds none, the TEMPLATE has to."""
    writer = gguf.GGUFWriter(folder / "own.gguf", "llama")
    if bos:
        writer.add_token_list(["<unk>", bos])
        writer.add_bos_token_id(1)
    if adds is not None:
        writer.add_add_bos_token(adds)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    text = f"FROM ./own.gguf\nPARAMETER stop a\nTEMPLATE {begins}{{{{ .Prompt }}}}{{{{ .Response }}}}\n"
    said = f"TEMPLATE begins with {begins}, and the server adds it"
    assert [said in trap for trap in traps(text, folder)] == [True] * is_trap


def test_a_text_of_several_lines_may_begin_one_with_any_word(folder: Path) -> None:
    assert traps(RIGHT + 'SYSTEM """Answer\nfrom what you know.\nSystem messages count."""\n', folder) == []


def test_a_model_of_the_library_in_from_is_no_trap(folder: Path) -> None:
    assert traps(RIGHT.replace("./model.gguf", "ada/med:q8_0"), folder) == []


def test_the_grammar_is_told_before_any_trap(folder: Path) -> None:
    with pytest.raises(InputError, match="Modelfile line 2: 'tempel' is no command") as refused:
        traps("FROM ./model.gguf\nTEMPEL a\n", folder)
    assert "a text of several lines stands between" in refused.value.hint


def test_lines_are_counted_where_a_command_begins() -> None:
    commands = read_modelfile('# one\nFROM a\n\nSYSTEM """x\ny"""\nPARAMETER top_k 1')
    assert [command.line for command in commands] == [2, 4, 6]
    assert commands[2] == Command("parameter", "1", "top_k"), "the line is no part of what a command says"


@pytest.mark.parametrize("key", [*INTEGERS, *FLOATS, "use_mmap"])
def test_every_parameter_of_ollama_is_known(key: str, folder: Path) -> None:
    assert traps(RIGHT.replace(HEAT, f"{key} 1"), folder) == []
