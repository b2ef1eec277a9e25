"""What conversion costs beside what it cannot cost less than, and beside the official chain.

    python -m benchmarks.convert --shape 1.1b --chain             # without --chain minutes less: no official chain
    python -m benchmarks.convert --shape 7b --work /path/with/30GB

In each round, one after the other: medllama convert for each set of types, the floor of that set, and the official chain. The
floor of F16 is copying as many bytes and flushing them to the disk; that of quantized files is llama.cpp's `ggml_quantize_chunk`
over all rows in the types of their mixtures, on all cores, with nothing read or written. Where our own quantizers fill vectors,
a conversion takes less than that. Every step is a process of its own; what it takes to start one that imports the same is measured
too, named apart, and taken off both sides of the ratio to the floor. Random weights (benchmarks.random_model).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy

from benchmarks.measure import Cost, call, command, machine, medllama
from benchmarks.official_converter import find_or_fetch
from benchmarks.random_model import SHAPES, make_adapter, make_base
from benchmarks.usual_route_cost import usual_steps
from convert.config import UNQUANTIZED, ConvertConfig
from convert.output import plan_outputs
from convert.source import read_source
from medllama.cores import usable_cores
from medllama.llamacpp.quantizer import quantize_rows

TYPES = ("F16", "Q4_K_M", "Q4_K_M,Q5_K_M,Q8_0")
SLAB_VALUES = 1 << 20
COPY_BYTES = 16 << 20


def measure(shape: str, sets: Sequence[str], rounds: int, work: Path, *, with_chain: bool) -> dict[str, Any]:
    """Costs per round of every set of types, its floor, starting up, and the chain where asked for."""
    base, adapter, out = work / "base", work / "adapter", work / "out"
    if not base.exists():
        make_adapter(adapter, make_base(base, shape), shape)
    found: dict[str, list[Cost]] = {}

    def note(name: str, cost: Cost) -> None:
        found.setdefault(name, []).append(cost)
        print(f"{name}: {cost.seconds:.1f} s", file=sys.stderr)

    for _ in range(rounds):
        os.sync()  # else a step would wait while the disk takes what the step before it has written
        note("start", call("benchmarks.convert:start", base, adapter))
        for types in sets:
            shutil.rmtree(out, ignore_errors=True)
            note(types, medllama("convert", "--base-model", base, "--adapter", adapter, "--types", types,
                                 "--output-dir", out, "--name", "m"))  # fmt: skip
            shutil.rmtree(out)
            os.sync()
            note(f"floor {types}", call("benchmarks.convert:floor", base, adapter, types, work / "copy"))
        if with_chain:
            os.sync()
            (chain := work / "chain").mkdir()
            costs = [cost for _, cost in usual_steps(base, adapter, find_or_fetch(), chain)]
            shutil.rmtree(chain)
            seconds, written = sum(cost.seconds for cost in costs), sum(cost.written_bytes for cost in costs)
            note("chain Q4_K_M", Cost(seconds, max(cost.peak_memory_bytes for cost in costs), written))
    figures = {name: _figures(costs) for name, costs in found.items()}
    return {"command": command("benchmarks.convert"), "shape": shape, "machine": machine(), "costs": figures}


def _figures(costs: list[Cost]) -> dict[str, Any]:
    seconds = [cost.seconds for cost in costs]
    return {
        "seconds": seconds,
        "median_seconds": statistics.median(seconds),
        "peak_memory_bytes": max(cost.peak_memory_bytes for cost in costs),
        "written_bytes": max(cost.written_bytes for cost in costs),
    }


def start(base: str, adapter: str) -> None:
    """What every conversion does before the first tensor: import, read the headers and the tokenizer, plan the files."""
    config = ConvertConfig(base, Path(), adapter=Path(adapter), types=("Q4_K_M",))
    plan_outputs(read_source(config), ["Q4_K_M"], "F16")


def floor(base: str, adapter: str, types: str, copy: str) -> None:
    """The work that no conversion to `types` can leave out."""
    config = ConvertConfig(base, Path(), adapter=Path(adapter), types=tuple(types.split(",")))
    for plan in plan_outputs(read_source(config), config.file_types, "F16"):
        if plan.file_type in UNQUANTIZED:
            _copy(sorted(Path(base).glob("*.safetensors")), Path(copy))
        else:
            _quantize_all([(plan.types[name], shape) for name, shape in plan.shapes.items() if len(shape) > 1])


def _copy(files: list[Path], target: Path) -> None:
    with target.open("wb") as written:
        for path in files:
            with path.open("rb") as read:
                shutil.copyfileobj(read, written, COPY_BYTES)
        written.flush()
        os.fsync(written.fileno())
    target.unlink()


def _quantize_all(matrices: list[tuple[str, tuple[int, ...]]]) -> None:
    def slabs() -> Iterator[tuple[numpy.ndarray, str]]:
        for type_name, (rows, columns) in matrices:
            values = _values(columns)
            for first in range(0, rows, len(values)):
                yield values[: rows - first], type_name

    with ThreadPoolExecutor(usable_cores()) as pool:
        for _ in pool.map(lambda slab: quantize_rows(*slab), slabs()):
            pass


@cache
def _values(columns: int) -> numpy.ndarray:
    shape = (max(1, SLAB_VALUES // columns), columns)
    return numpy.random.default_rng(0).standard_normal(shape, dtype=numpy.float32) * numpy.float32(0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="30m")
    parser.add_argument("--types", nargs="+", default=TYPES, help="sets of types (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chain", action="store_true", help="also the official chain, in every round")
    parser.add_argument("--work", type=Path, help="folder to keep the model in (default: a temporary one)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (given.work or Path(temporary)) / given.shape
        work.mkdir(parents=True, exist_ok=True)
        found = measure(given.shape, given.types, given.rounds, work, with_chain=given.chain)
    _print(found)
    print(json.dumps(found))


def _print(found: dict[str, Any]) -> None:
    costs = found["costs"]
    print(f"{found['command']}\n{found['machine']}")
    started = costs["start"]["median_seconds"]
    print(f"start-up, taken off below: {started:.1f} s")
    print(f"{'':<22}{'seconds':>9}{'spread':>8}{'floor':>8}{'ratio':>7}{'peak memory':>13}{'written':>11}")
    for types in (name for name in costs if f"floor {name}" in costs):
        ours, least = costs[types], costs[f"floor {types}"]
        seconds, floor_seconds = ours["median_seconds"] - started, least["median_seconds"] - started
        spread = max(ours["seconds"]) - min(ours["seconds"])
        # Of a floor shorter than starting up, what is left after that is taken off is noise, and may be negative.
        ratio = f"{_median_ratio(ours, least, started):.2f}" if floor_seconds > started else "-"
        print(
            f"{types:<22}{seconds:>9.1f}{spread:>8.1f}{floor_seconds:>8.1f}{ratio:>7}"
            f"{ours['peak_memory_bytes'] / 1e9:>10.2f} GB{ours['written_bytes'] / 1e9:>8.2f} GB"
        )
    if (chain := costs.get("chain Q4_K_M")) is not None:
        share = ""
        if "Q4_K_M" in costs:
            share = f"; ours takes {_median_ratio(costs['Q4_K_M'], chain, 0.0):.2f} of it"
        print(
            f"{'official chain Q4_K_M':<22}{chain['median_seconds']:>9.1f}{max(chain['seconds']) - min(chain['seconds']):>8.1f}"
            f"{'':>15}{chain['peak_memory_bytes'] / 1e9:>10.2f} GB"
            f"{chain['written_bytes'] / 1e9:>8.2f} GB (start-ups of both in their times{share})"
        )


def _median_ratio(ours: dict[str, Any], other: dict[str, Any], started: float) -> float:
    """The median of the rounds' ratios: a machine that slows down for minutes slows both sides of a round."""
    pairs = zip(ours["seconds"], other["seconds"], strict=True)
    return statistics.median((mine - started) / (theirs - started) for mine, theirs in pairs)


if __name__ == "__main__":
    main()
