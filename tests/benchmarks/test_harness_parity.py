"""Log-likelihoods and choices on an F16 GGUF are lm-evaluation-harness's on the Hugging Face model, where it is installed.

It brings 25 packages that nothing else here needs, so it is no dependency: `pip install lm-eval==0.4.13`, then `make test`.
Without it, tests/eval/test_wording.py holds its words and tests/eval/test_scoring.py Transformers' log-likelihoods.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from convert.config import ConvertConfig
from convert.convert import convert
from tests.eval.test_formats import MEDMCQA, MEDQA, PUBMEDQA, write_lines, write_mmlu

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-evaluation-harness is not installed"),
]


@pytest.mark.parametrize("shots", [0, 2])
def test_the_figures_are_the_harness_own(shots: int, tiny_base: Path, tmp_path: Path) -> None:
    config = ConvertConfig(base_model=str(tiny_base), output_dir=tmp_path / "gguf", types=("F16",))
    gguf = convert(config).summary["files"][0]
    tasks = []
    for name, row, question in (
        ("medqa", MEDQA, "question"),
        ("medmcqa", MEDMCQA, "question"),
        ("pubmedqa", PUBMEDQA, "QUESTION"),
    ):
        for split, count in (("train", 2), ("test", 6)):
            rows = ({**row, question: f"{split} {number}: what is it?"} for number in range(count))
            path = write_lines(tmp_path / f"{name}_{split}.jsonl", *rows)
        tasks.append(f"{name}:{path}")
    for split in ("dev", "test"):
        write_mmlu(tmp_path / "mmlu", split)
    tasks.append(f"mmlu-medical:{tmp_path / 'mmlu'}")
    # A program of its own: the harness and what it brings warn on import.
    command = [sys.executable, "-m", "benchmarks.harness_parity", "--base-model", tiny_base, "--gguf", gguf]
    done = subprocess.run(
        [*command, "--shots", str(shots), *(it for name in tasks for it in ("--task", name))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [it["items"] for it in found] == [6, 6, 6, 4]
    for it in found:
        assert it["largest_difference"] < it["tolerance"]
        assert it["flips_beyond_tolerance"] == 0
