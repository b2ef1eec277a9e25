"""The configuration of `medllama eval`: every field is a flag and a recipe key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medllama.config import option


@dataclass(frozen=True)
class EvalConfig:
    """A GGUF, the base's beside it, and tasks in; results with their uncertainty out."""

    gguf: Path = option(help="the GGUF to measure", kind="path", metavar="FILE")
    output: Path = option(
        help="the results to write, for example results.json; every item goes to items-TASK.jsonl beside it",
        kind="output",
        metavar="FILE",
    )
    baseline: Path | None = option(
        None,
        help="the base's GGUF, converted in the same way, to compare with on the same items",
        kind="path",
        metavar="FILE",
    )
    task: tuple[str, ...] = option(
        (), help="JSONL of multiple-choice items or of conversations (answers' perplexity)", kind="path", metavar="FILE"
    )
    data: Path | None = option(
        None,
        help="folder that prepare made: its multiple_choice.jsonl and test.jsonl are tasks too",
        kind="path",
        metavar="DIR",
    )
    max_records: int = option(400, help="conversations measured per task: a sample by --seed where there are more")
    seed: int = option(0, help="seed of that sample")
    threads: int | None = option(None, help="CPU threads (default: all); another number may change the last digits")

    def problems(self) -> list[str]:
        found = [] if self.task or self.data else ["task: name a JSONL file, or --data the folder that prepare made"]
        if self.max_records < 1:
            found.append(f"max_records: {self.max_records} must be 1 or more")
        if self.threads is not None and self.threads < 1:
            found.append(f"threads: {self.threads} must be 1 or more")
        return found
