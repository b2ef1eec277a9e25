"""The numbers of a report: a run's records in, the JSON of report.json out. The page is made from this and from nothing else.

Every part names in `source` the files of the run that it comes from; a part that the run has not made is null, and stands in
`missing` with the verb that makes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medllama import __version__
from medllama.files import sha256_file
from report.limits import limits, notes
from report.links import links
from report.overlap import overlap
from report.records import NOTICE, STAGE_NAMES, Records, read_records, record_paths

FORMAT = 1
DATA, TRAINING, METRICS = "data/data_card.json", "adapter/training.json", "adapter/metrics.jsonl"
CERTIFICATE, RESULTS, PACKAGE = "certificate.json", "eval/results.json", "manifests/package.json"


def collect(run: Path) -> dict[str, Any]:
    """Everything that the report says of the run in this folder."""
    records = read_records(run)
    figures: dict[str, Any] = {
        "format": FORMAT,
        "run": run.resolve().name,
        "medllama": __version__,
        "missing": records.missing(),
        "data": _data(records),
        "base": _base(records),
        "training": _training(records),
        "loss_curve": _loss_curve(records),
        "cost": _cost(records),
        "certificate": _certificate(records),
        "evaluation": _evaluation(records),
        "samples": _samples(records),
        **{name: _of_results(records, name) for name in ("generation", "quant_card", "panel")},
    }
    figures["headline"] = headline(figures["evaluation"])
    figures["links"] = links(records)
    figures["notes"] = notes(records)
    figures["limits"] = limits(figures)
    figures["files"] = {path.relative_to(run).as_posix(): sha256_file(path) for path in record_paths(run)}
    return figures


def _part(records: Records, name: str) -> dict[str, Any] | None:
    value = records.values.get(name)
    return None if value is None else {"source": [name], **value}


def _data(records: Records) -> dict[str, Any] | None:
    card = records.values.get(DATA)
    if card is None:
        return None
    notice = records.values.get(NOTICE)
    return {"source": [DATA, *([NOTICE] if notice is not None else [])], **card, "notice": notice}


def _base(records: Records) -> dict[str, Any] | None:
    """The base's name and digests as training saw it; its licence as package read it."""
    training = records.values.get(TRAINING)
    if training is None:
        return None
    licence = records.manifests.get("package", {}).get("summary", {}).get("licence")
    return {
        "source": [TRAINING, *([PACKAGE] if licence else [])],
        "name": shown_name(training["base"]["name"]),
        "files": training["base"]["files"],
        "licence": licence,
    }


def shown_name(name: str) -> str:
    """A hub id as it is, of a path the last part: where a model lay on somebody's disk is nobody's business."""
    return Path(name).name if Path(name).is_absolute() or name.startswith(("~", ".")) else name


def _training(records: Records) -> dict[str, Any] | None:
    training = _part(records, TRAINING)
    if training is None:
        return None
    kept = {key: value for key, value in training.items() if key != "base"}
    settings = training["hyperparameters"].items()
    shown = {key: shown_name(value) if isinstance(value, str) else value for key, value in settings}
    return {**kept, "hyperparameters": shown}


def _loss_curve(records: Records) -> dict[str, Any] | None:
    """Losses by step. The base's own validation loss, from training.json, is the curve's first point."""
    rows = records.values.get(METRICS)
    if rows is None:
        return None
    loss = (records.values.get(TRAINING) or {}).get("loss", {}).get("validation")
    start = [[0, loss["base"]["nats_per_token"]]] if loss else []
    return {
        "source": [METRICS, *([TRAINING] if loss else [])],
        "unit": "nats per learned token",
        "training": [[row["step"], row["loss"]] for row in rows if row["loss"] is not None],
        "validation": start
        + [[row["step"], row["validation_loss"]] for row in rows if row["validation_loss"] is not None],
    }


def _cost(records: Records) -> dict[str, Any]:
    """Seconds, peak memory and bytes of each stage; null for a stage whose manifest is not there."""
    stages: list[dict[str, Any]] = []
    for name in STAGE_NAMES:
        manifest = records.manifests.get(name)
        if manifest is None:
            stages.append(
                {"stage": name, "source": [], "seconds": None, "peak_memory_bytes": None, "bytes_written": None}
            )
            continue
        written = sum(output["bytes"] for output in manifest["outputs"].values())
        stages.append(
            {
                "stage": name,
                "source": [f"manifests/{name}.json"],
                "seconds": manifest["seconds"],
                "peak_memory_bytes": manifest["peak_memory_bytes"],
                "bytes_written": written,
            }
        )
    known = [stage for stage in stages if stage["source"]]
    return {
        "source": [name for stage in known for name in stage["source"]],
        "stages": stages,
        "seconds": sum(stage["seconds"] for stage in known),
        "peak_memory_bytes": max((stage["peak_memory_bytes"] for stage in known), default=None),
        "bytes_written": sum(stage["bytes_written"] for stage in known),
    }


def _certificate(records: Records) -> dict[str, Any] | None:
    """The certificate, with its checks counted by verdict."""
    certificate = _part(records, CERTIFICATE)
    if certificate is None:
        return None
    verdicts = [check["verdict"] for file in certificate["files"] for check in file["checks"]]
    return {**certificate, "counts": {verdict: verdicts.count(verdict) for verdict in ("pass", "fail", "skipped")}}


def _evaluation(records: Records) -> dict[str, Any] | None:
    results = records.values.get(RESULTS)
    if results is None:
        return None
    files = {
        role: {**results[role], "file": Path(results[role]["file"]).name}
        for role in ("model", "baseline")
        if results[role]
    }
    tasks = [{"source": [RESULTS], **task, "overlap": overlap(records.run, task)} for task in results["tasks"]]
    for row in (row for task in tasks for row in task.get("by_subject", ())):
        row["change"] = None if row["baseline"] is None else row["model"] - row["baseline"]
    return {"source": [RESULTS], "seed": results["seed"], "model": None, "baseline": None, **files, "tasks": tasks}


def _samples(records: Records) -> dict[str, Any] | None:
    samples = (records.values.get(RESULTS) or {}).get("samples")
    if not samples or not samples["items"]:
        return None
    compared = [item for item in samples["items"] if item["expected"] is not None]
    expected = {
        role: sum(bool(item[role]["is_expected"]) for item in compared)
        for role in ("model", "baseline")
        if all(item[role] for item in compared)
    }
    return {"source": [RESULTS], **samples, "compared": len(compared), "as_expected": expected}


def _of_results(records: Records, name: str) -> dict[str, Any] | None:
    """A part of the results that not every evaluation has."""
    part = (records.values.get(RESULTS) or {}).get(name)
    return None if part is None else {"source": [RESULTS], **part}


def headline(evaluation: dict[str, Any] | None) -> dict[str, Any]:
    """Better, worse, unclear, or not known: by the first multiple-choice task, else the first perplexity."""
    tasks = evaluation["tasks"] if evaluation else []
    ordered = sorted(tasks, key=lambda task: task["kind"] != "multiple_choice")
    if not ordered:
        return {"source": [], "verdict": "not measured", "task": None}
    task = ordered[0]
    is_accuracy = task["kind"] == "multiple_choice"
    difference = task["difference"] if is_accuracy else task["answer_text"]["difference"]
    found = {"source": task["source"], "task": task["task"], "kind": task["kind"]}
    if difference is None:
        return {**found, "verdict": "not compared"}
    low, high = difference["interval_95"] or (-1, 1)
    if not is_accuracy:  # a lower loss is better
        low, high = -high, -low
    return {**found, "verdict": "better" if low > 0 else "worse" if high < 0 else "unclear"}
