"""A plan's figures are computed: bytes as the files turn out, tokens as training sees them; a run comes close to its plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medllama.plan import plan
from medllama.recipe import load_recipe
from tests.checkpoints import make_llama3_checkpoint

pytestmark = pytest.mark.usefixtures("alone")


def recipe(folder: Path, prepare: str) -> Path:
    base = make_llama3_checkpoint(folder / "base")
    path = folder / "mine.yaml"
    path.write_text(f"prepare: {prepare}\ntrain: {{base_model: {base}}}\nconvert: {{types: [F16, Q8_0]}}\n")
    return path


def test_a_plan_has_figures_for_every_file_and_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [{"messages": [{"role": "user", "content": f"What is {number}?"}, {"role": "assistant", "content": "A number."}],
                "licence": "CC0-1.0"} for number in range(100)]  # fmt: skip
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    path = recipe(tmp_path, "{source: ['jsonl:records.jsonl']}")
    figures = plan(load_recipe(str(path)), tmp_path / "runs")
    parameters = figures["parameters"]
    assert figures["disk_bytes"]["GGUF F16"] == 2 * parameters
    assert figures["disk_bytes"]["GGUF Q8_0"] == round(8.5 * parameters / 8)
    assert figures["disk_bytes"]["adapter"] == 4 * figures["lora_parameters"]
    assert figures["disk_bytes"]["data"] > 100 * 50
    assert 3 * 80 * 5 < figures["training_tokens"] < 3 * 100 * 60, "of three epochs"
    assert all(needs["seconds"] > 0 and needs["memory_bytes"] > 0 for needs in figures["stages"].values())
    assert figures["licences"]["base"] == "unknown: no licence text beside the weights"
    shown = capsys.readouterr().err
    assert all(stage in shown for stage in ("prepare", "train", "convert", "verify", "eval"))
    assert not (tmp_path / "runs").exists(), "nothing is touched"


def test_what_depends_on_data_that_is_not_here_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = plan(load_recipe(str(recipe(tmp_path, "{source: ['jsonl:none.jsonl']}"))), tmp_path / "runs")
    assert figures["training_tokens"] is None
    assert figures["stages"]["train"]["seconds"] is None
    assert figures["stages"]["convert"]["seconds"] > 0
    shown = capsys.readouterr().err
    assert "training tokens unknown until the data is here" in shown
    assert "none.jsonl does not exist" in shown


def test_a_base_that_is_not_here_is_planned_from_its_published_shape(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = plan(load_recipe("llama2-7b"), tmp_path / "runs")
    assert figures["disk_bytes"]["base (download)"] == 2 * figures["parameters"]
    assert figures["gpu_memory_bytes"] > 2 * figures["parameters"]
    assert "(to be downloaded)" in capsys.readouterr().err
