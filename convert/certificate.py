"""What verify found, as data, as JSON and as a table for people.

A `Check` is one proof about one file: a figure, the bound that it is held against and the reason of that bound, a verdict, and
where it fails the likely cause and the place. `package` reads the JSON and refuses a file whose verdict is not "pass".
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

FORMAT = 1
Verdict = Literal["pass", "fail", "skipped"]
NAMES = (
    "file", "metadata", "tensors", "tokenizer", "prompts", "logits", "adapter_gguf", "greedy", "ends",
)  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One check of one file. `details` holds further figures; a skipped check says in `reason` why it does not apply."""

    name: str
    verdict: Verdict
    figure: float | int | str | None = None
    bound: float | int | str | None = None
    reason: str = ""
    likely_cause: str = ""
    where: str = ""
    details: dict[str, Any] = field(default_factory=dict)


def skipped(name: str, reason: str) -> Check:
    """A check that truly does not apply to this file."""
    return Check(name, "skipped", reason=reason)


def failed(name: str, cause: str, *, where: str, figure: Any, bound: Any, reason: str) -> Check:
    """A check that failed."""
    return Check(name, "fail", figure, bound, reason, cause, where)


@dataclass(frozen=True)
class FileReport:
    """All checks of one GGUF. `model` says what it was held against: the "merged" model, the "base", or "adapter"."""

    name: str
    sha256: str
    bytes: int
    type: str | None
    model: str
    checks: tuple[Check, ...]

    @property
    def verdict(self) -> Verdict:
        return "fail" if any(check.verdict == "fail" for check in self.checks) else "pass"

    def as_json(self) -> dict[str, Any]:
        """The entry of the certificate."""
        entry = {"name": self.name, "sha256": self.sha256, "bytes": self.bytes, "type": self.type, "model": self.model}
        return entry | {
            "verdict": self.verdict,
            "checks": [_presentable(dataclasses.asdict(check)) for check in self.checks],
        }


@dataclass(frozen=True)
class Certificate:
    """Everything that was proven about the GGUF files of one model."""

    facts: dict[str, Any]
    files: tuple[FileReport, ...]

    @property
    def verdict(self) -> Verdict:
        return "fail" if any(file.verdict == "fail" for file in self.files) else "pass"

    def as_json(self) -> dict[str, Any]:
        """The JSON of certificate.json."""
        return {
            "format": FORMAT,
            "verdict": self.verdict,
            **self.facts,
            "files": [file.as_json() for file in self.files],
        }

    def table(self) -> list[str]:
        """The summary for people: a line per check, and under a failed one its cause and place."""
        lines = []
        for file in self.files:
            kind = f"{file.type or 'unknown type'}, {file.bytes / 1e6:,.1f} MB, against the {file.model} model"
            lines.append(f"{file.name}  ({kind}): {file.verdict.upper()}")
            for check in file.checks:
                figure = "" if check.figure is None else f"{_shown(check.figure)}"
                bound = "" if check.bound is None else f"(bound {_shown(check.bound)})"
                text = check.reason if check.verdict == "skipped" else f"{figure} {bound}".strip()
                lines.append(f"  {check.verdict:<8}{check.name:<13}{text}")
                if check.verdict == "fail":
                    lines.append(f"          {check.likely_cause}" + (f" [{check.where}]" if check.where else ""))
        return [_presentable(line) for line in lines]

    def failures(self) -> list[str]:
        """`tensors of medllama-F16.gguf`, for every check that failed."""
        return [
            f"{check.name} of {file.name}" for file in self.files for check in file.checks if check.verdict == "fail"
        ]


def _shown(value: float | int | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _presentable(value: Any) -> Any:
    """`value` as JSON and a terminal can take it: the name of a file may be any bytes, and a figure infinite."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str):
        return value.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="replace")
    if isinstance(value, dict):
        return {_presentable(key): _presentable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_presentable(part) for part in value]
    return value
