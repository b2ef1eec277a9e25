"""Whether `medllama eval` on an F16 GGUF gives lm-evaluation-harness's figures on the Hugging Face model, item by item.

    pip install lm-eval==0.4.13
    python -m benchmarks.harness_parity --base-model DIR --gguf FILE-F16.gguf --task pubmedqa:FILE --task mmlu-medical:DIR

The harness runs its own task files, of which only the place of the data is changed, on the base's folder in float32. Printed are
both accuracies, the largest difference of a log-likelihood, and every item that is chosen otherwise with its margin. Not compared
here are examples: the harness draws new ones for each item where a task does not say which.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

from eval.benchmark_tasks import open_task
from eval.config import EvalConfig
from eval.evaluate import evaluate
from eval.tasks import Question, Task

TOLERANCE = 0.02  # nats: F16 weights against float32, over answers of one or two tokens
HARNESS = {"medqa": "medqa_4options", "medmcqa": "medmcqa", "pubmedqa": "pubmedqa"}


def harness_rows(task: Task) -> dict[str, list[dict[str, Any]]]:
    """The questions as rows of the harness's data sets, by the name of its task."""
    found: dict[str, list[dict[str, Any]]] = {}
    for record in task.records:
        assert isinstance(record, Question)
        name = HARNESS.get(task.benchmark, f"mmlu_{record.subject}")
        texts, number = list(record.options.values()), list(record.options).index(record.answer)
        row: dict[str, Any] = {"question": record.question, "choices": texts, "answer": number}
        if task.benchmark == "medqa":
            row = {
                "sent1": record.question,
                **{f"ending{place}": text for place, text in enumerate(texts)},
                "label": number,
            }
        elif task.benchmark == "medmcqa":
            row = {
                "question": record.question,
                **dict(zip(("opa", "opb", "opc", "opd"), texts, strict=True)),
                "cop": number,
            }
        elif task.benchmark == "pubmedqa":
            row = {"QUESTION": record.question, "CONTEXTS": [record.context], "final_decision": texts[number]}
        found.setdefault(name, []).append(row)
    return found


def harness(base_model: Path, task: Task) -> list[list[float]]:
    """The harness's log-likelihoods of every option, in the order of the task."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    own, found = Path(lm_eval.__file__).parent / "tasks", []
    with tempfile.TemporaryDirectory() as temporary:
        model = HFLM(pretrained=str(base_model), dtype="float32", device="cpu", batch_size=1)
        for name, rows in harness_rows(task).items():
            path, here = Path(temporary) / f"{name}.jsonl", f"here_{name}"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            files = {split: str(path) for split in ("train", "validation", "test", "dev")}
            included = own / ("mmlu/default" if name.startswith("mmlu") else task.benchmark)
            included /= f"{task.benchmark if task.benchmark in HARNESS else name}.yaml"
            changed: dict[str, Any] = {
                "include": str(included),
                "task": here,
                "dataset_path": "json",
                "dataset_name": None,
            }
            changed |= {"dataset_kwargs": {"data_files": files}}
            (Path(temporary) / f"{here}.yaml").write_text(json.dumps(changed), encoding="utf-8")
            manager = TaskManager(include_path=temporary)
            given = lm_eval.simple_evaluate(model, tasks=[here], num_fewshot=0, task_manager=manager, bootstrap_iters=0)
            samples = sorted(given["samples"][here], key=lambda sample: sample["doc_id"])
            found += [[float(answer[0]) for answer in sample["filtered_resps"]] for sample in samples]
    return found


def ours(gguf: Path, name: str) -> list[dict[str, Any]]:
    """Our items."""
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary) / "results.json"
        evaluate(EvalConfig(gguf=gguf, output=output, task=(name,), samples=0))
        (result,) = json.loads(output.read_text())["tasks"]
        lines = (output.parent / result["items_file"]).read_text().splitlines()
    return [json.loads(line) for line in lines]


def compare(base_model: Path, gguf: Path, name: str, limit: int | None = None) -> dict[str, Any]:
    """Both on the same items."""
    task = open_task(name)
    items = ours(gguf, name)
    known = {item["id"] for item in items}
    records = [it for it in task.records if isinstance(it, Question) and it.record_id in known][:limit]
    theirs = harness(base_model, dataclasses.replace(task, records=tuple(records)))
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
        "task": name, "items": len(theirs), "largest_difference": max(differences), "tolerance": TOLERANCE,
        "our_accuracy": sum(item["model"]["is_right"]["sum"] for item in items[: len(theirs)]) / len(theirs),
        "harness_accuracy": right / len(theirs), "flips": flips,
        "flips_beyond_tolerance": sum(flip["margin"] > 2 * TOLERANCE for flip in flips),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-model", type=Path, required=True)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--task", action="append", required=True)
    parser.add_argument("--limit", type=int, help="compare only the first items")
    given = parser.parse_args()
    for name in given.task:
        print(json.dumps(compare(given.base_model, given.gguf, name, given.limit)), flush=True)


if __name__ == "__main__":
    main()
