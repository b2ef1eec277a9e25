"""The card shows what eval measured on a file of the package, and nothing that was measured on another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from medllama.errors import CheckFailed, InputError
from publish.certificate import CertifiedFile
from publish.evaluation import read_evaluation

FILES = (CertifiedFile("m-Q4_K_M.gguf", "ab" * 32, 10, "Q4_K_M", "merged", ("file",)),)
CHOICE = {
    "task": "medical", "kind": "multiple_choice", "measured": 500,
    "model": {"accuracy": 0.612, "interval_95": [0.57, 0.65]}, "baseline": {"accuracy": 0.5, "interval_95": [0.45, 0.54]},
    "difference": {"accuracy": 0.112, "interval_95": [0.06, 0.16]},
}  # fmt: skip
PERPLEXITY = {
    "task": "held-out", "kind": "perplexity", "measured": 1400, "part": "answer_text",
    "answer_text": {"model": {"perplexity": 3.5, "perplexity_interval_95": [3.25, 3.75]}, "baseline": None},
}  # fmt: skip


def results(folder: Path, *tasks: dict[str, Any], digest: str = FILES[0].sha256) -> Path:
    path = folder / "results.json"
    path.write_text(json.dumps({"model": {"sha256": digest}, "tasks": tasks}))
    return path


def test_every_task_has_a_row_with_its_interval_and_difference(tmp_path: Path) -> None:
    table = read_evaluation(results(tmp_path, CHOICE, PERPLEXITY), FILES).table().splitlines()[2:]
    assert table == [
        "| medical | 500 | accuracy | 61.2% (57.0% to 65.0%) | 50.0% | +11.2 points (+6.0 to +16.0) |",
        "| held-out | 1,400 | perplexity of held-out answers | 3.50 (3.25 to 3.75) | not measured | not measured |",
    ]


def test_a_text_is_called_a_text_and_a_base_that_was_not_measured_is_not_claimed(tmp_path: Path) -> None:
    found = read_evaluation(results(tmp_path, PERPLEXITY | {"prompt": "plain"}), FILES)
    assert "| perplexity of the text | 3.50 (3.25 to 3.75) |" in found.table()
    assert not found.has_base
    assert read_evaluation(results(tmp_path, CHOICE, PERPLEXITY), FILES).has_base


def test_free_answers_have_a_row_where_any_was_right(tmp_path: Path) -> None:
    path = results(tmp_path, CHOICE)
    exactly = {key: CHOICE[key] for key in ("model", "baseline", "difference")}
    for line, rows in (("61.2% against 50.0% of the base", 2), ("", 1)):
        content = json.loads(path.read_text())
        content["generation"] = {"measured": 400, "line": line, "exactly_right": exactly}
        path.write_text(json.dumps(content))
        found = read_evaluation(path, FILES)
        assert len(found.scores) == rows
        if line:
            row = "61.2% (57.0% to 65.0%) | 50.0% | +11.2 points (+6.0 to +16.0) |"
            assert found.table().splitlines()[-1] == f"| free answers | 400 | exactly the expected words | {row}"
            assert found.model_index("M")[0]["results"][-1]["metrics"] == [{"type": "exact_match", "value": 0.612}]


def test_the_metadata_is_what_hugging_face_reads(tmp_path: Path) -> None:
    index = read_evaluation(results(tmp_path, CHOICE), FILES).model_index("Medllama")
    assert yaml.safe_load(yaml.safe_dump(index)) == index
    assert index[0]["name"] == "Medllama"
    assert index[0]["results"][0]["metrics"] == [{"type": "accuracy", "value": 0.612}]


def test_results_of_another_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="was measured on another file"):
        read_evaluation(results(tmp_path, CHOICE, digest="cd" * 32), FILES)


@pytest.mark.parametrize("task", [{}, {"kind": "perplexity"}, CHOICE | {"model": 3}, "text"])
def test_what_is_no_result_is_refused(task: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not what medllama eval writes"):
        read_evaluation(results(tmp_path, task), FILES)


def test_a_perplexity_of_one_document_has_no_interval_and_is_shown(tmp_path: Path) -> None:
    mean = {"nats_per_token": 1.25, "standard_error": None, "interval_95": None}
    model = {**mean, "perplexity": 3.5, "perplexity_interval_95": None}
    part = {"model": model, "baseline": model, "difference": mean | {"nats_per_token": -0.5}}
    beyond = part | {"model": model | {"perplexity": None}}
    tasks = [PERPLEXITY | {"measured": 1, "answer_text": it} for it in (part, beyond)]
    found = read_evaluation(results(tmp_path, *tasks), FILES)
    assert found.table().splitlines()[2:] == [
        f"| held-out | 1 | perplexity of held-out answers | {shown} | 3.50 | -0.500 nats a token (no interval) |"
        for shown in ("3.50 (no interval)", "beyond measure")
    ]
    assert [it["metrics"][0]["value"] for it in found.model_index("M")[0]["results"]] == [3.5]
