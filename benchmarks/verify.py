"""What the certificate costs: seconds and peak memory of `medllama verify --sample` for one GGUF of a real shape.

    python -m benchmarks.verify --shape 1.1b                       # goal: under 2 minutes on two cores
    python -m benchmarks.verify --shape 7b --work /path/with/40GB  # goal: under 20 minutes and 8 GB

It makes a random base and adapter, converts them, verifies, and prints a table and JSON. `--full` leaves --sample out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import machine, medllama
from benchmarks.random_model import SHAPES, make_adapter, make_base


def measure(shape: str, file_type: str, folder: Path, *, is_sample: bool) -> dict[str, Any]:
    """Make the model where it is not there yet, convert, verify; the costs of both."""
    base, adapter, gguf = folder / "base", folder / "adapter", folder / "gguf"
    if not base.exists():
        make_adapter(adapter, make_base(base, shape), shape)
    model = ("--base-model", base, "--adapter", adapter)
    path = gguf / f"random-{file_type}.gguf"
    converting = medllama("convert", *model, "--types", file_type, "--output-dir", gguf, "--name", "random")
    sample = ["--sample"] if is_sample else []
    verifying = medllama("verify", *model, "--gguf", path, "--output", folder / "certificate.json", *sample)
    certificate = json.loads((folder / "certificate.json").read_text())
    return {
        "shape": shape, "type": file_type, "gguf_bytes": path.stat().st_size, "verdict": certificate["verdict"],
        "sampled": certificate["sampled"], "convert": asdict(converting), "verify": asdict(verifying), "machine": machine(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="30m")
    parser.add_argument("--type", default="Q4_K_M", help="the GGUF's type (default: Q4_K_M)")
    parser.add_argument("--full", action="store_true", help="look at everything, not at a sample")
    parser.add_argument("--work", type=Path, help="folder to keep the models in (default: a temporary one)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.work or Path(temporary)) / given.shape
        found = measure(given.shape, given.type, folder, is_sample=not given.full)
    print(f"{'':<10}{'seconds':>10}{'peak memory':>14}")
    for stage in ("convert", "verify"):
        print(f"{stage:<10}{found[stage]['seconds']:>10.1f}{found[stage]['peak_memory_bytes'] / 1e9:>11.2f} GB")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
