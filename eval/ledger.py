"""What a long measurement has done so far, so that it goes on where it was cut off.

A line of JSONL per batch, under the digest of everything that decides its figures (model, prompts, batches, threads, versions).
Whole batches count, so a resumed run computes the rest in the very batches in which it would have been computed anyway, and ends
with the same bits. Floats are written with all of their digits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import numpy.typing

Scores = list[list[numpy.typing.NDArray[numpy.float64]]]  # of one batch: of each prompt and answer the labels' values


class Ledger:
    """The file of one task and model; `decides` is what must be the same for an old one to be used."""

    def __init__(self, path: Path, decides: Mapping[str, Any]) -> None:
        self.path = path
        self.key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    def read(self) -> list[Scores]:
        """The batches that are done. What is of another measurement, or was cut in the middle, is removed."""
        whole = self._whole_lines()
        if not whole or whole[0] != {"key": self.key}:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps({"key": self.key}) + "\n", encoding="utf-8")
            return []
        self.path.write_text("".join(json.dumps(line) + "\n" for line in whole), encoding="utf-8")
        return [
            [[numpy.array(values, dtype=numpy.float64) for values in answers] for answers in line["batch"]]
            for line in whole[1:]
        ]

    def _whole_lines(self) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = []
        if not self.path.is_file():
            return lines
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                value = json.loads(line)
            except ValueError:
                break
            if not isinstance(value, dict) or (lines and "batch" not in value):
                break
            lines.append(value)
        return lines

    def append(self, batch: Scores) -> None:
        """Keep one more batch, at once."""
        line = json.dumps({"batch": [[values.tolist() for values in answers] for answers in batch]}, allow_nan=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def remove(self) -> None:
        """Nothing is left to resume."""
        self.path.unlink(missing_ok=True)
