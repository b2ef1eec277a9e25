"""What more cores give a conversion: its time on one, two, ... of this machine's, and what that lets one expect of more.

    python -m benchmarks.convert_cores --shape 1.1b
    python -m benchmarks.convert_cores --shape 7b --work /path/with/20GB

Amdahl's model, seconds = alone + shared / cores, is fitted by least squares to the times measured (on two cores it goes through
both). It knows nothing of the disk and the memory that all cores share: a prediction is the least that it allows, no promise.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy

from benchmarks.measure import command, machine, medllama
from benchmarks.random_model import SHAPES, make_adapter, make_base

PREDICTED_CORES = (4, 8, 16)


def measure(base: Path, adapter: Path, types: str, rounds: int, out: Path) -> dict[int, float]:
    """The median seconds of a conversion on each number of cores from one to all, in turns."""
    cores = sorted(os.sched_getaffinity(0))
    seconds: dict[int, list[float]] = {count: [] for count in range(1, len(cores) + 1)}
    try:
        for _ in range(rounds):
            for count, found in seconds.items():
                os.sched_setaffinity(0, cores[:count])  # processes that are started inherit it
                cost = medllama("convert", "--base-model", base, "--adapter", adapter, "--types", types,
                                "--output-dir", out, "--name", "m")  # fmt: skip
                found.append(cost.seconds)
                print(f"{count} cores: {cost.seconds:.1f} s", file=sys.stderr)
    finally:
        os.sched_setaffinity(0, cores)
    return {count: statistics.median(found) for count, found in seconds.items()}


def fit(seconds: dict[int, float]) -> tuple[float, float]:
    """(alone, shared) of Amdahl's model in seconds, neither below zero. Needs times on two numbers of cores or more."""
    shares = numpy.array([[1, 1 / count] for count in seconds])
    alone, shared = numpy.linalg.lstsq(shares, numpy.array(list(seconds.values())), rcond=None)[0]
    return max(0.0, float(alone)), max(0.0, float(shared))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="30m")
    parser.add_argument("--types", default="Q4_K_M")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--work", type=Path, help="folder to keep the model in (default: a temporary one)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (given.work or Path(temporary)) / given.shape
        work.mkdir(parents=True, exist_ok=True)
        base, adapter = work / "base", work / "adapter"
        if not base.exists():
            make_adapter(adapter, make_base(base, given.shape), given.shape)
        seconds = measure(base, adapter, given.types, given.rounds, Path(temporary) / "out")
    alone, shared = fit(seconds) if len(seconds) > 1 else (0.0, seconds[1])
    for count, value in seconds.items():
        print(f"{count:>3} cores {value:>8.1f} s  measured, {seconds[1] / value:.2f} times one")
    for count in (count for count in PREDICTED_CORES if count > max(seconds)):
        print(f"{count:>3} cores {alone + shared / count:>8.1f} s  by the model: {alone:.1f} + {shared:.1f} / {count}")
    found = {"command": command("benchmarks.convert_cores"), "machine": machine(), "seconds": seconds}
    print(json.dumps(found | {"alone_seconds": alone, "shared_seconds": shared}))


if __name__ == "__main__":
    main()
