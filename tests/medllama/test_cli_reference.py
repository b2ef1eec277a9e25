"""docs/cli.md is what the program says, and the README's commands are commands of the program."""

from __future__ import annotations

import re
import shlex

import pytest

from medllama.cli import parser
from medllama.cli_reference import render
from tests.conftest import REPOSITORY


def test_docs_cli_is_what_the_program_says() -> None:
    written = (REPOSITORY / "docs" / "cli.md").read_text()
    assert written == render(), "run: python -m medllama.cli_reference > docs/cli.md"


def readme_commands() -> list[str]:
    text = (REPOSITORY / "README.md").read_text()
    indented = [line.strip() for line in text.splitlines() if line.startswith("    medllama ")]
    return [re.sub(r"\s+#.*", "", line) for line in indented]


@pytest.mark.parametrize("command", readme_commands())
def test_every_command_of_the_readme_parses(command: str) -> None:
    parser().parse_args(shlex.split(command)[1:])


def test_the_readme_shows_commands() -> None:
    assert len(readme_commands()) >= 8


def test_the_readme_names_every_folder() -> None:
    text = (REPOSITORY / "README.md").read_text()
    folders = [path.name for path in REPOSITORY.iterdir() if path.is_dir() and (path / "__init__.py").is_file()]
    assert {"medllama", "finetune", "convert"} <= set(folders)
    assert [name for name in folders if f"{name}/" not in text] == []
