"""What a long measurement has done so far, so that it goes on where it was cut off.

    ledgers = Ledgers(Path("results.json"), {"threads": 2})
    ledger = ledgers.open("items-medqa-model", {"prompts": "5e..."})
    done = ledger.read()

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

from medllama.files import PARTIAL_SUFFIX


def beside(output: Path, name: str) -> Path:
    """A file that belongs to these results: `items-medqa.jsonl` to results.json, `q4-items-medqa.jsonl` to q4.json."""
    return output.with_name(name if output.stem == "results" else f"{output.stem}-{name}")


class Ledgers:
    """The ledgers of one evaluation, beside its results; `decides` is what all of them depend on."""

    def __init__(self, output: Path, decides: Mapping[str, Any]) -> None:
        self._output = output
        self._decides = decides
        self._opened: list[Ledger] = []

    def open(self, name: str, decides: Mapping[str, Any]) -> Ledger:
        """The ledger of one measurement with one file, under everything that decides its bits."""
        path = beside(self._output, f"{name}.jsonl{PARTIAL_SUFFIX}")
        self._opened.append(Ledger(path, {**self._decides, **decides}))
        return self._opened[-1]

    def remove(self) -> None:
        """Nothing is left to resume."""
        for ledger in self._opened:
            ledger.path.unlink(missing_ok=True)


class Ledger:
    """The file of one measurement; `decides` is what must be the same for an old one to be used."""

    def __init__(self, path: Path, decides: Mapping[str, Any]) -> None:
        self.path = path
        self.key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    def read(self) -> list[Any]:
        """The batches that are done. What is of another measurement, or was cut in the middle, is removed."""
        whole = self._whole_lines()
        if not whole or whole[0] != {"key": self.key}:
            whole = [{"key": self.key}]
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("".join(json.dumps(line) + "\n" for line in whole), encoding="utf-8")
        return [line["batch"] for line in whole[1:]]

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

    def append(self, batch: Any) -> None:
        """Keep one more batch, at once: any JSON."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"batch": batch}, allow_nan=False) + "\n")
