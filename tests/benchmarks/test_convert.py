"""The benchmark of conversion runs as its docstring says; the files are written once."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks.convert import _print
from tests.conftest import REPOSITORY


@pytest.mark.slow
def test_the_smallest_run_measures_every_set_of_types_and_its_floor() -> None:
    command = [sys.executable, "-m", "benchmarks.convert", "--shape", "30m", "--rounds", "1"]
    finished = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-2000:]
    found = json.loads(finished.stdout.splitlines()[-1])
    assert found["command"] == "python -m benchmarks.convert --shape 30m --rounds 1"
    costs = found["costs"]
    assert list(costs) == ["start", "F16", "floor F16", "Q4_K_M", "floor Q4_K_M", "Q4_K_M,Q5_K_M,Q8_0",
                           "floor Q4_K_M,Q5_K_M,Q8_0"]  # fmt: skip
    copied = costs["floor F16"]["written_bytes"]
    assert copied < costs["F16"]["written_bytes"] < 1.02 * copied
    # A 16-bit file on the way would be 40 MB more.
    assert costs["Q4_K_M"]["written_bytes"] < 0.4 * copied
    assert all(0 < cost["peak_memory_bytes"] < 400e6 for cost in costs.values())


@pytest.mark.parametrize(("floor_seconds", "shown"), [(0.9, "-"), (1.5, "-"), (5.0, "0.50")])
def test_a_floor_that_drowns_in_the_start_gives_no_ratio(
    floor_seconds: float, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the smallest shape the copy took less than the start that is taken off, and the ratio was below zero."""
    costs = {"start": 1.0, "F16": 3.0, "floor F16": floor_seconds}
    figures = {
        name: {"seconds": [value], "median_seconds": value, "peak_memory_bytes": 10**8, "written_bytes": 10**7}
        for name, value in costs.items()
    }
    _print({"command": "python -m benchmarks.convert", "machine": {}, "costs": figures})
    assert capsys.readouterr().out.splitlines()[-1].split()[4] == shown
