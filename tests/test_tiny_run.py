"""`medllama run tiny` from nothing, once, as a new user runs it: what the README says of it is true.

The run is made in a folder of its own with the program itself. It takes two minutes alone, more beside other work.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from eval.domain_prompts import PROMPTS
from medllama.files import sha256_file
from medllama.recipe import load_recipe
from tests.conftest import REPOSITORY
from tests.report.test_page import numbers, page_of, text

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@dataclass(frozen=True)
class WholeRun:
    """A finished run: its folder, what `plan` said before it, what `run` printed."""

    folder: Path
    plan: dict[str, Any]
    printed: dict[str, Any]

    def manifest(self, stage: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "manifests" / f"{stage}.json").read_text())
        return found


def medllama(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "medllama", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> WholeRun:
    runs = tmp_path_factory.mktemp("runs")
    planned = medllama("plan", "tiny", "--runs-dir", runs)
    return WholeRun(runs / "tiny", planned, medllama("run", "tiny", "--runs-dir", runs))


def size(path: Path) -> int:
    return (
        sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size
    )


def test_the_tuned_model_is_better_than_its_base_beyond_chance(whole_run: WholeRun) -> None:
    tasks = {
        task["task"]: task for task in json.loads((whole_run.folder / "eval" / "results.json").read_text())["tasks"]
    }
    choice = tasks["multiple_choice"]["difference"]
    assert choice["accuracy"] >= 0.20
    assert choice["interval_95"][0] > 0
    assert choice["mcnemar_exact_p"] < 1e-6
    held_out = tasks["test"]["answer_text"]
    assert held_out["model"]["perplexity"] < held_out["baseline"]["perplexity"] / 2
    assert held_out["difference"]["interval_95"][1] < 0, "nats a token"


def readme_row(label: str) -> list[list[float]]:
    """The numbers of a row of the README's table of results: those of base, tuned and difference."""
    rows = [line for line in (REPOSITORY / "README.md").read_text().splitlines() if line.startswith(f"| {label}")]
    assert len(rows) == 1, label
    return [[float(number) for number in re.findall(r"[+-]?\d+(?:\.\d+)?", cell)] for cell in rows[0].split("|")[2:-1]]


def percents(*shares: float) -> Any:
    return pytest.approx([100 * share for share in shares], abs=5)


def test_the_readmes_table_is_what_a_run_measures(whole_run: WholeRun) -> None:
    """Other processors round otherwise and train a little otherwise; a corpus or a recipe that changed is further off."""
    results = json.loads((whole_run.folder / "eval" / "results.json").read_text())
    choice, perplexity = results["tasks"]
    base, tuned, difference = readme_row("multiple choice")
    assert base == percents(choice["baseline"]["accuracy"])
    assert tuned == percents(choice["model"]["accuracy"])
    assert difference == percents(choice["difference"]["accuracy"], *choice["difference"]["interval_95"])
    base, tuned, difference = readme_row("perplexity")
    text = perplexity["answer_text"]
    assert base == pytest.approx([text["baseline"]["perplexity"]], rel=0.1)
    assert tuned == pytest.approx([text["model"]["perplexity"]], rel=0.1)
    its = text["difference"]
    assert difference == pytest.approx([its["nats_per_token"], *its["interval_95"]], abs=0.1)

    free = results["generation"]
    assert free["measured"] == 400
    base, tuned, difference = readme_row("free answers")
    exactly = free["exactly_right"]
    assert base == percents(exactly["baseline"]["accuracy"])
    assert tuned[:1] == percents(exactly["model"]["accuracy"])
    assert difference[:1] == percents(exactly["difference"]["accuracy"])
    interval = binomtest(exactly["model"]["right"], 400).proportion_ci(0.95, method="wilson")
    assert exactly["model"]["interval_95"] == pytest.approx(interval)
    assert exactly["difference"]["interval_95"][0] > 0.5
    assert exactly["difference"]["mcnemar_exact_p"] < 1e-6


def test_every_file_is_certified(whole_run: WholeRun) -> None:
    certificate = json.loads((whole_run.folder / "certificate.json").read_text())
    assert certificate["verdict"] == "pass"
    assert {file["name"] for file in certificate["files"]} == {"tiny-F16.gguf", "tiny-Q4_K_M.gguf"}


def test_the_run_used_what_the_plan_said(whole_run: WholeRun) -> None:
    for stage, needs in whole_run.plan["stages"].items():
        cost = whole_run.manifest(stage)
        # A plan is made in a second; other work that begins later makes a stage several times slower.
        if max(cost["seconds"], needs["seconds"]) > 10:
            assert 1 / 3 < cost["seconds"] / needs["seconds"] < 6, stage
        # A stage's process keeps the libraries that stages before it loaded.
        assert cost["peak_memory_bytes"] < 1.5 * max(needs["memory_bytes"], 1e8), stage
    assert whole_run.manifest("train")["peak_memory_bytes"] > whole_run.plan["stages"]["train"]["memory_bytes"] / 1.5
    planned, gguf = whole_run.plan["disk_bytes"], whole_run.folder / "gguf"
    found = {
        "data": size(whole_run.folder / "data"),
        "adapter": size(whole_run.folder / "adapter" / "adapter_model.safetensors"),
        "GGUF F16": size(gguf / "tiny-F16.gguf"),
        "GGUF Q4_K_M": size(gguf / "tiny-Q4_K_M.gguf"),
        "GGUF of the base": size(gguf / "tiny-base-Q4_K_M.gguf"),
    }
    for what, used in found.items():
        assert 0.8 < used / planned[what] < 1.2, what
    assert whole_run.plan["training_tokens"] == pytest.approx(
        whole_run.manifest("train")["summary"]["trained_tokens"], rel=0.1
    )


def test_the_run_ends_with_a_report_whose_numbers_are_those_of_its_files(whole_run: WholeRun) -> None:
    run = whole_run.folder
    figures = json.loads((run / "report.json").read_text())
    assert Path(whole_run.printed["stages"]["report"]["path"]).samefile(run / "report.html")
    assert figures["missing"] == []
    assert [link["holds"] for link in figures["links"]] == [True] * 6
    assert figures["files"] == {name: sha256_file(run / name) for name in figures["files"]}
    assert figures["headline"]["verdict"] == "better"
    assert all(stage["seconds"] > 0 for stage in figures["cost"]["stages"])
    assert all(seen["overlap"]["documents"] > 0 for seen in figures["evaluation"]["tasks"])
    page = page_of(run)
    shown = {float(element.get("value")) for element in page.iter("data")}
    for task in json.loads((run / "eval" / "results.json").read_text())["tasks"]:
        its = task if task["kind"] == "multiple_choice" else task["answer_text"]
        for role in ("model", "baseline"):
            assert numbers({key: its[role][key] for key in ("accuracy", "perplexity") if key in its[role]}) <= shown
    assert f"{whole_run.manifest('train')['summary']['steps']} optimizer steps" in text(
        page.get_element_by_id("training")
    )
    recipe = load_recipe("tiny")
    origins = [item["origin"] for item in figures["samples"]["items"]]
    assert origins == ["example"] * len(recipe.examples) + ["test"] * 6 + ["domain"] * len(PROMPTS)


def test_a_second_run_changes_nothing(whole_run: WholeRun) -> None:
    again = medllama("run", "tiny", "--runs-dir", whole_run.folder.parent)
    assert all(stage["was_skipped"] for stage in again["stages"].values())
