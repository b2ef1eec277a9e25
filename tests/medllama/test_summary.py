"""A run ends with a table of what was made and the commands to try next, on stderr."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from medllama.cli import parser
from medllama.pipeline import Finished
from medllama.recipe import Recipe
from medllama.stages import BY_NAME, StageResult
from medllama.summary import print_run_table


def test_the_table_has_a_row_per_stage_and_ends_with_what_to_do_next(capsys: pytest.CaptureFixture[str]) -> None:
    recipe, folder = Recipe(Path("recipes/tiny.yaml"), "tiny", ""), Path("runs/tiny")
    made = {
        name: Finished(
            BY_NAME[name], StageResult(folder / name, {"line": f"what {name} made"}), 75.0, 1_500_000_000, was
        )
        for name, was in (("prepare", True), ("package", False))
    }
    print_run_table(recipe, folder, list(made.values()))
    shown = capsys.readouterr()
    assert shown.out == ""
    rows = [line.split() for line in shown.err.splitlines() if line.startswith(tuple(made))]
    assert rows == [
        ["prepare", "unchanged", "1.50", "GB", "what", "prepare", "made"],
        ["package", "1m15s", "1.50", "GB", "what", "package", "made"],
    ]
    for command in (
        "ollama create tiny -f runs/tiny/package/Modelfile",
        "ollama run tiny",
        "less runs/tiny/package/README.md",
        "runs/tiny/report.html",
        "medllama app recipes/tiny.yaml ",
        "medllama chat recipes/tiny.yaml ",
        "medllama publish recipes/tiny.yaml --to store:DIR --dry-run ",
    ):
        assert command in shown.err
    commands = [line.split("   ")[0] for line in shown.err.splitlines() if line.startswith("  medllama ")]
    assert len(commands) == 4
    for command in commands:
        parser().parse_args(shlex.split(command)[1:])

    print_run_table(recipe, Path("else where/tiny"), list(made.values()))
    assert "medllama app recipes/tiny.yaml --runs-dir 'else where' " in capsys.readouterr().err

    print_run_table(recipe, folder, [made["prepare"]])
    assert "Next:  medllama run recipes/tiny.yaml" in capsys.readouterr().err
