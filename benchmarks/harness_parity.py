"""Whether `medllama eval` on an F16 GGUF gives lm-evaluation-harness's figures on the Hugging Face model, item by item.

    pip install lm-eval==0.4.13
    python -m benchmarks.harness_parity --base-model DIR --gguf FILE-F16.gguf --task pubmedqa:FILE --task mmlu-medical:DIR --shots 5

The harness runs its own task files, of which only the place of the data is changed, on the base's folder in float32. Printed are
both accuracies, the largest difference of a log-likelihood, and every item that is chosen otherwise with its margin. Examples are
the first of their file, as the harness takes them for MMLU; for the other tasks, where it draws new ones for each item, it is told
to take these.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.benchmark_tasks import open_task
from eval.config import EvalConfig
from eval.evaluate import evaluate
from eval.tasks import Question, Record, Task

TOLERANCE = 0.02  # nats: F16 weights against float32, over answers of one or two tokens
HARNESS = {"medqa": "medqa_4options", "medmcqa": "medmcqa", "pubmedqa": "pubmedqa"}


def harness_rows(task: Task, records: Sequence[Record]) -> dict[str, list[dict[str, Any]]]:
    """Questions as rows of the harness's data sets, by the name of its task."""
    found: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        assert isinstance(record, Question)
        name = HARNESS.get(task.benchmark, f"mmlu_{record.subject}")
        row: dict[str, Any]
        texts, number = list(record.options.values()), list(record.options).index(record.answer)
        match task.benchmark:
            case "medqa":
                row = {"sent1": record.question, "label": number}
                row |= {f"ending{place}": text for place, text in enumerate(texts)}
            case "medmcqa":
                row = {"question": record.question, "cop": number}
                row |= dict(zip(("opa", "opb", "opc", "opd"), texts, strict=True))
            case "pubmedqa":
                row = {"QUESTION": record.question, "CONTEXTS": [record.context], "final_decision": texts[number]}
            case _:
                row = {"question": record.question, "choices": texts, "answer": number}
        found.setdefault(name, []).append(row)
    return found


def harness(base_model: Path, task: Task, shots: int) -> list[list[float]]:
    """The harness's log-likelihoods of every option, in the order of the task."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    own, found = Path(lm_eval.__file__).parent / "tasks", []
    examples = harness_rows(task, task.examples)
    with tempfile.TemporaryDirectory() as temporary:
        model = HFLM(pretrained=str(base_model), dtype="float32", device="cpu", batch_size=1)
        for name, rows in harness_rows(task, task.records).items():
            files = {}
            for split, its in (("test", rows), ("train", examples.get(name, rows))):
                path = Path(temporary) / f"{name}_{split}.jsonl"
                path.write_text("".join(json.dumps(row) + "\n" for row in its), encoding="utf-8")
                files[split] = str(path)
            here = f"here_{name}"
            included = own / ("mmlu/default" if name.startswith("mmlu") else task.benchmark)
            included /= f"{task.benchmark if task.benchmark in HARNESS else name}.yaml"
            changed: dict[str, Any] = {
                "include": str(included), "task": here, "dataset_path": "json", "dataset_name": None,
                "dataset_kwargs": {"data_files": files}, "training_split": "train", "validation_split": None,
                "test_split": "test", "fewshot_split": "train", "fewshot_config": {"sampler": "first_n"},
            }  # fmt: skip
            (Path(temporary) / f"{here}.yaml").write_text(json.dumps(changed), encoding="utf-8")
            manager = TaskManager(include_path=temporary, include_defaults=False)
            given = lm_eval.simple_evaluate(
                model, tasks=[here], num_fewshot=shots, task_manager=manager, bootstrap_iters=0
            )
            samples = sorted(given["samples"][here], key=lambda sample: sample["doc_id"])
            found += [[float(answer[0]) for answer in sample["filtered_resps"]] for sample in samples]
    return found


def ours(gguf: Path, name: str, shots: int) -> list[dict[str, Any]]:
    """Our items: those that fit the context."""
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary) / "results.json"
        evaluate(EvalConfig(gguf=gguf, output=output, task=(name,), shots=shots, samples=0, generate=0))
        (result,) = json.loads(output.read_text())["tasks"]
        lines = (output.parent / result["items_file"]).read_text().splitlines()
    return [json.loads(line) for line in lines]


def compare(base_model: Path, gguf: Path, name: str, shots: int = 0, limit: int | None = None) -> dict[str, Any]:
    """Both on the same items."""
    task = open_task(name, shots)
    items = ours(gguf, name, shots)
    known = {item["id"] for item in items}
    records = [it for it in task.records if isinstance(it, Question) and it.record_id in known][:limit]
    theirs = harness(base_model, dataclasses.replace(task, records=tuple(records)), shots)
    differences, flips, right = [], [], 0
    for item, values in zip(items, theirs, strict=False):
        mine = list(item["model"]["log_likelihood"].values())
        differences += [abs(a - b) for a, b in zip(mine, values, strict=True)]
        best = values.index(max(values))
        right += list(item["model"]["log_likelihood"])[best] == item["answer"]
        if best != mine.index(max(mine)):
            ranked = sorted(values, reverse=True)
            flips.append({"id": item["id"], "margin": ranked[0] - ranked[1]})
    return {
        "task": task.name, "shots": shots, "items": len(theirs), "largest_difference": max(differences), "tolerance": TOLERANCE,
        "our_accuracy": sum(item["model"]["is_right"]["sum"] for item in items[: len(theirs)]) / len(theirs),
        "harness_accuracy": right / len(theirs), "flips": flips,
        "flips_beyond_tolerance": sum(flip["margin"] > 2 * TOLERANCE for flip in flips),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-model", type=Path, required=True)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--task", action="append", required=True)
    parser.add_argument("--shots", type=int, default=0, help="examples before each question (default: none)")
    parser.add_argument("--limit", type=int, help="compare only the first items")
    given = parser.parse_args()
    for name in given.task:
        print(json.dumps(compare(given.base_model, given.gguf, name, given.shots, given.limit)), flush=True)


if __name__ == "__main__":
    main()
