"""Whether what was tested had been trained on: held-out facts, or held-out wordings of facts that training has seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medllama.files import read_jsonl, sha256_file
from report.records import conform

TRAINED = "data/train.jsonl"


def overlap(run: Path, task: dict[str, Any]) -> dict[str, Any] | None:
    """How many of the documents that were measured have records in training too.

    None where that cannot be known: the task is no file of this run's data, or a file that would tell is not there.
    """
    items, trained = run / "eval" / Path(task["items_file"]).name, run / TRAINED
    own = (run / "data" / f"{Path(task['task']).name}.jsonl", items, trained)
    if not all(path.is_file() for path in own) or sha256_file(own[0]) != task["sha256"]:
        return None
    tested = documents(items)
    return {
        "source": [path.relative_to(run).as_posix() for path in (items, trained)],
        "documents": len(tested),
        "in_training": len(tested & documents(trained)),
    }


def documents(path: Path) -> set[str]:
    """The documents that the records of a file belong to."""
    return {conform(record, {"document_id?": str}, place)["document_id"] or place for place, record in read_jsonl(path)}
