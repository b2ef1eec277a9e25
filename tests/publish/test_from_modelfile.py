"""An existing Modelfile becomes a package: its wishes are kept, its traps are told, and what is proven is not taken from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from medllama.errors import InputError, RecipeError
from publish.gate import open_package
from publish.modelfile import Command, read_modelfile
from tests.publish.packages import Made

THEIRS = """\
# somebody's
from ./gguf/model.gguf
PARAMETER temperature 0.7
PARAMETER top_p 0.9
PARAMETER stop "###"
PARAMETER stop "</s>"
PARAMETER mirostat 1
REQUIRES 0.31.0
SYSTEM \"\"\"Answer
briefly.\"\"\"
TEMPLATE [INST] {{ .System }} {{ .Prompt }} [/INST]{{ .Response }}
"""


@pytest.fixture
def theirs(made: Callable[..., Made], tmp_path: Path) -> tuple[Made, Path]:
    """A folder with a Modelfile beside a certified GGUF of another name."""
    given = made()
    (tmp_path / "theirs" / "gguf").mkdir(parents=True)
    given.files[1].rename(tmp_path / "theirs" / "gguf" / "model.gguf")
    (tmp_path / "theirs" / "Modelfile").write_text(THEIRS)
    given.edit(files=[entry for entry in _files(given) if "Q4_K_M" in entry["name"]])
    return given, tmp_path / "theirs" / "Modelfile"


def _files(given: Made) -> list[dict[str, object]]:
    return list(json.loads(given.certificate.read_text())["files"])


def test_it_is_packaged_without_naming_the_file_again(
    theirs: tuple[Made, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    given, modelfile = theirs
    out = given.package(gguf=(), from_modelfile=modelfile)
    package = open_package(out)
    assert [file.name for file in package.files] == ["model.gguf"]
    assert package.system == "Answer\nbriefly."
    assert package.parameters == {"stop": ["</s>", "###"], "temperature": 0.7, "num_ctx": 128, "top_p": 0.9}
    assert package.requires == "0.31.0"
    assert package.template != "[INST] {{ .System }} {{ .Prompt }} [/INST]{{ .Response }}", "the certified one counts"
    shown = capsys.readouterr().err
    assert f"{modelfile} line 7: warning: Ollama takes no notice of mirostat; take it out" in shown


def test_a_flag_wins_over_the_modelfile(theirs: tuple[Made, Path]) -> None:
    given, modelfile = theirs
    package = open_package(
        given.package(gguf=(), from_modelfile=modelfile, temperature=0.0, num_ctx=256, system="Be kind.")
    )
    assert package.parameters["temperature"] == 0.0
    assert package.parameters["num_ctx"] == 256
    assert package.system == "Be kind."


def test_an_empty_system_flag_wins_too(theirs: tuple[Made, Path]) -> None:
    given, modelfile = theirs
    assert open_package(given.package(gguf=(), from_modelfile=modelfile, system="")).system == ""


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-8"])
def test_it_is_read_in_every_encoding_that_ollama_reads(encoding: str, theirs: tuple[Made, Path]) -> None:
    given, modelfile = theirs
    modelfile.write_text("\ufeff" + THEIRS.replace("briefly.", "briefly, au café."), encoding=encoding)
    assert open_package(given.package(gguf=(), from_modelfile=modelfile)).system == "Answer\nbriefly, au café."


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8"])
def test_the_line_ends_of_a_system_prompt_stay_as_ollama_keeps_them(
    encoding: str, theirs: tuple[Made, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    given, modelfile = theirs
    modelfile.write_bytes(THEIRS.replace("\n", "\r\n").encode(encoding))
    out = given.package(gguf=(), from_modelfile=modelfile)
    assert open_package(out).system == "Answer\r\nbriefly."
    assert b'"""Answer\r\nbriefly."""' in (out / "Modelfile").read_bytes()
    assert "SYSTEM has Windows' line ends" in capsys.readouterr().err


def test_what_the_grammar_refuses_is_told_with_file_and_line(theirs: tuple[Made, Path]) -> None:
    given, modelfile = theirs
    modelfile.write_text(THEIRS.replace("TEMPLATE [INST]", 'TEMPLATE """[INST]'))
    with pytest.raises(InputError) as refused:
        given.package(gguf=(), from_modelfile=modelfile)
    assert refused.value.message.startswith(f"{modelfile}: Modelfile line 11: a quoted text that begins there")


def test_every_error_is_told_at_once_and_nothing_is_made(theirs: tuple[Made, Path]) -> None:
    given, modelfile = theirs
    modelfile.write_text(THEIRS.replace("top_p 0.9", "topp 0.9").replace("./gguf/model.gguf", "./gguf/gone.gguf"))
    with pytest.raises(RecipeError) as refused:
        given.package(gguf=(), from_modelfile=modelfile)
    gone = modelfile.parent / "gguf" / "gone.gguf"
    assert [problem.partition("; ")[0] for problem in refused.value.problems] == [
        f"line 2: error: there is no file {gone}, so Ollama would ask for a model './gguf/gone.gguf'",
        "line 4: error: 'topp' is no parameter of Ollama",
    ]
    assert refused.value.exit_status == 1
    assert not given.output_dir.exists()


def test_a_model_of_the_library_needs_its_file_named(theirs: tuple[Made, Path]) -> None:
    given, modelfile = theirs
    file = modelfile.parent / "gguf" / "model.gguf"
    modelfile.write_text(THEIRS.replace("./gguf/model.gguf", "llama3.2"))
    with pytest.raises(InputError, match=r"runs the model 'llama3\.2', and a package holds certified files"):
        given.package(gguf=(), from_modelfile=modelfile)
    assert open_package(given.package(gguf=(str(file),), from_modelfile=modelfile)).default.name == "model.gguf"


def test_it_needs_a_certificate_like_any_other(theirs: tuple[Made, Path]) -> None:
    given, modelfile = theirs
    given.certificate.unlink()
    with pytest.raises(InputError, match="there is no certificate"):
        given.package(gguf=(), from_modelfile=modelfile)


def test_what_a_package_wrote_can_be_packaged_again(made: Callable[..., Made], tmp_path: Path) -> None:
    given = made()
    first = given.package(system="Be brief.", temperature=0.5)
    second = given.package(gguf=(), from_modelfile=first / "Modelfile", output_dir=tmp_path / "again")
    commands: list[list[Command]] = [
        read_modelfile((folder / "Modelfile").read_text(encoding="utf-8")) for folder in (first, second)
    ]
    assert commands[0] == commands[1]
