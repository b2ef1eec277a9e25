"""`medllama run tiny`, cut short: it ends with the report, whose numbers are those of records that the stages really wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medllama.files import sha256_file
from medllama.pipeline import run_recipe
from medllama.recipe import load_recipe
from tests.report.test_page import numbers, page_of, text

pytestmark = pytest.mark.slow

SHORT: dict[str, Any] = {
    "max_examples": 300, "max_steps": 4, "evaluations": 2, "max_records": 20, "samples": 2, "max_answer_tokens": 16,
}  # fmt: skip


def test_a_run_ends_with_its_report(tmp_path: Path) -> None:
    run = tmp_path / "tiny"
    stages = run_recipe(load_recipe("tiny"), tmp_path, SHORT)
    assert stages[-1].result.path == run / "report.html"
    figures = json.loads((run / "report.json").read_text())
    assert figures["missing"] == []
    assert [link["holds"] for link in figures["links"]] == [True] * 6
    assert figures["files"] == {name: sha256_file(run / name) for name in figures["files"]}
    results = json.loads((run / "eval/results.json").read_text())
    shown = {float(element.get("value")) for element in page_of(run).iter("data")}
    for task in results["tasks"]:
        its = task if task["kind"] == "multiple_choice" else task["answer_text"]
        for role in ("model", "baseline"):
            assert (
                numbers({key: its[role].get(key) for key in ("accuracy", "perplexity") if its[role].get(key)}) <= shown
            )
    expected = figures["headline"]["verdict"]
    low, high = results["tasks"][0]["difference"]["interval_95"]
    assert expected == ("better" if low > 0 else "worse" if high < 0 else "unclear")
    assert [item["origin"] for item in figures["samples"]["items"]] == ["example", "test", "test"]
    assert all(stage["seconds"] > 0 for stage in figures["cost"]["stages"])
    assert "4 optimizer steps" in text(page_of(run).get_element_by_id("training"))
    assert [seen["overlap"]["documents"] > 0 for seen in figures["evaluation"]["tasks"]] == [True, True]
