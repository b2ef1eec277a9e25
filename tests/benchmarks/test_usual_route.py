"""The benchmark of the usual route runs as its docstring says, and its figures are of the right kind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.official_converter import find_or_fetch
from benchmarks.usual_route import KINDS, sentences_of
from medllama.errors import ResourceError
from tests.conftest import REPOSITORY


@pytest.mark.slow
def test_the_smallest_run_measures_both_routes(tmp_path: Path) -> None:
    try:
        find_or_fetch()
    except ResourceError as error:
        pytest.skip(str(error))
    path = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.usual_route", "--kinds", "1", "--shape", "30m", "--json", str(path)]
    finished = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-2000:]
    figures = json.loads(path.read_text())
    theirs, ours = figures["checkpoints"]["Llama 2"]
    assert theirs["wrong_tokens"] > 0.1
    assert ours["wrong_tokens"] == 0
    assert ours["divergence"] < 1e-6
    assert "right: usual route 0 of 1, medllama 1 of 1" in finished.stdout
    usual, own = figures["cost"]["usual route"], figures["cost"]["medllama"]
    assert [len(usual), len(own)] == [3, 1]
    for step in [*usual, *own]:
        assert min(step["seconds"], step["peak_memory_bytes"], step["written_bytes"]) > 0
    # The usual route writes the merged model and its F16 beside the quantized file, medllama that file alone.
    assert own[0]["written_bytes"] < sum(step["written_bytes"] for step in usual) / 5


def test_the_ten_checkpoints_and_the_sentences_are_as_many_and_different() -> None:
    sentences = sentences_of("tiny")
    assert len(set(sentences)) == len(sentences) == 4000
    assert len(KINDS) == 10
