"""The Modelfile at the repository's root is the one that the code would write today."""

from __future__ import annotations

from publish.flagship import MODELFILE, flagship_modelfile
from publish.modelfile import read_modelfile


def test_the_modelfile_at_the_root_is_made_by_the_code() -> None:
    assert MODELFILE.read_text(encoding="utf-8") == flagship_modelfile(), "run: python -m publish.flagship"


def test_the_flagship_runs_the_four_bit_file_with_llama2s_own_prompt() -> None:
    commands = read_modelfile(flagship_modelfile())
    assert [command.value for command in commands if command.name == "from"] == ["./medllama-Q4_K_M.gguf"]
    assert [command.value for command in commands if command.key == "stop"] == ["</s>"]
    template = next(command.value for command in commands if command.name == "template")
    assert '{{ $between = "<s>" }}' in template
    assert not template.replace("{{-", "").startswith("<s>")
