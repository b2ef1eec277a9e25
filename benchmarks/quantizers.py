"""llama.cpp's quantizers in vectors beside llama.cpp's own: nanoseconds a value on one core, bytes compared.

    python -m benchmarks.quantizers

Normal values, as those of a model's matrices are. In each round one after the other; medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import numpy

from benchmarks.measure import command, machine
from medllama.llamacpp import quantizer, vectorized

ROWS, COLUMNS = 256, 4096


def measure(rounds: int) -> dict[str, Any]:
    """Per type, with and without importance: nanoseconds a value of ggml and of each width that this processor has."""
    values = numpy.random.default_rng(0).standard_normal((ROWS, COLUMNS), dtype=numpy.float32) * numpy.float32(0.02)
    importance = numpy.random.default_rng(1).random(COLUMNS, dtype=numpy.float32)
    widths = {width: library for width in vectorized.WIDTHS if (library := vectorized.compiled_for(width))}
    found: dict[str, dict[str, float]] = {}
    for type_name in vectorized.TYPES:
        ways = {"ggml": None} | {width: vectorized.chunk_of(library, type_name) for width, library in widths.items()}
        for label, weights in ((type_name, None), (f"{type_name} weighed", importance)):
            took: dict[str, list[float]] = {way: [] for way in ways}
            blocks = {}
            for _ in range(rounds):
                for way, chunk in ways.items():
                    begun = time.perf_counter()
                    blocks[way] = quantizer.quantize_rows(values, type_name, weights, chunk=chunk)
                    took[way].append((time.perf_counter() - begun) / values.size * 1e9)
            assert all(numpy.array_equal(made, blocks["ggml"]) for made in blocks.values()), "the same bytes"
            found[label] = {way: statistics.median(nanoseconds) for way, nanoseconds in took.items()}
    return {"command": command("benchmarks.quantizers"), "machine": machine(), "nanoseconds": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    found = measure(parser.parse_args().rounds)
    print(f"{found['command']}\n{found['machine']}")
    ways = next(iter(found["nanoseconds"].values()))
    print(f"{'':<14}" + "".join(f"{way:>10}" for way in ways))
    for label, row in found["nanoseconds"].items():
        print(f"{label:<14}" + "".join(f"{nanoseconds:>10.1f}" for nanoseconds in row.values()))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
