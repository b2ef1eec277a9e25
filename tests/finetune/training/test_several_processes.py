"""`accelerate launch` with two processes on the CPU (gloo) takes the course of one process with twice the batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow


def run(folder: Path, output: str, processes: int, batch_size: int, *more: str) -> Path:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes)]
    launch += ["--multi_gpu"] if processes > 1 else ["--cpu"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    verb = ["-m", "medllama", "train", "--base-model", str(folder / "base"), "--data", str(folder / "data")]
    settings = ["--rank", "4", "--alpha", "8", "--learning-rate", "5e-3", "--epochs", "3", "--evaluations", "2"]
    command = [*launch, *verb, "--output-dir", str(folder / output), "--batch-size", str(batch_size), *settings, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == [str(folder / output)], "one process prints"
    return folder / output


def metrics(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
def test_two_processes_have_the_loss_of_one(folder: Path, packing: bool) -> None:
    more = ["--packing", "--max-length", "64"] if packing else []
    batch_size = 2 if packing else 4
    one = run(folder, f"one-{packing}", 1, 2 * batch_size, *more)
    two = run(folder, f"two-{packing}", 2, batch_size, *more)
    told = [json.loads((output / "training.json").read_text()) for output in (one, two)]
    assert [it["processes"] for it in told] == [1, 2]
    for single, double in zip(metrics(one), metrics(two), strict=True):
        for key in ("loss", "validation_loss"):
            # float32 sums in another order, through a few steps of Adam
            assert (double[key] or 0) == pytest.approx(single[key] or 0, rel=1e-3), key
        assert double["tokens"] == single["tokens"]
    weights = [load_file(output / "adapter_model.safetensors") for output in (one, two)]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=0.05, atol=2e-3)
