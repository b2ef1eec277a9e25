"""The benchmark of the importance matrix: what it calls divergence is that, and a type that has no use for a matrix shows none."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from benchmarks import imatrix
from medllama.files import write_json
from tests.adapters import load_unmerged, make_adapter
from tests.checkpoints import make_llama2_checkpoint, sentences


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run, as far as the benchmark reads it."""
    base = make_llama2_checkpoint(tmp_path / "base", hidden_size=256, intermediate_size=256, initializer_range=0.15)
    folder = tmp_path / "run"
    make_adapter(base, folder / "adapter")
    write_json(folder / "manifests" / "train.json", {"config": {"base_model": str(base)}})
    (folder / "data").mkdir()
    for part in ("train", "test"):
        records: list[dict[str, Any]] = [{"text": text} for text in sentences()[part == "test" :: 9]]
        records[1] = {"messages": [{"role": "user", "content": "Gout?"}, {"role": "assistant", "content": "Rest."}]}
        (folder / "data" / f"{part}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def figures(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[str, Any]:
    monkeypatch.setattr(imatrix, "TYPES", ("Q2_K", "Q8_0"))
    monkeypatch.setattr(sys, "argv", ["benchmarks.imatrix", "--run", str(run), "--records", "12", "--tokens", "600"])
    imatrix.main()
    shown = capsys.readouterr().out
    return shown, json.loads(shown.splitlines()[-1])


def test_each_type_is_measured_without_and_with_a_matrix(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown, found = figures(run, monkeypatch, capsys)
    assert found["records"] == 12
    assert found["importance_tokens"] == 600
    low, high = found["types"]["Q2_K"], found["types"]["Q8_0"]
    assert high["without"] == high["with"] > 0, "Q8_0 has no use for a matrix"
    assert high["difference_95"] == [0, 0]
    assert low["with"] != low["without"] > 10 * high["without"]
    first, last = low["difference_95"]
    assert first < low["with"] - low["without"] < last
    assert "Q8_0" in shown
    assert shown.count("no difference shown") >= 1


def test_files_are_measured_against_the_tuned_model(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, Any] = {}
    divergences = imatrix._divergences

    def kept(path: Path, prompts: list[list[int]], truth: list[numpy.ndarray]) -> numpy.ndarray:
        seen[f"{path.parent.name}/{path.stem}"] = divergences(path, prompts, truth)
        seen.update(prompts=prompts, truth=truth)
        return seen[f"{path.parent.name}/{path.stem}"]

    monkeypatch.setattr(imatrix, "_divergences", kept)
    _, found = figures(run, monkeypatch, capsys)
    model = load_unmerged(run.parent / "base", run / "adapter")
    for prompt, truth in zip(seen["prompts"], seen["truth"], strict=True):
        with torch.no_grad():
            expected = torch.log_softmax(model(torch.tensor([prompt])).logits[0].double(), dim=-1)
        ours = torch.from_numpy(truth)
        assert torch.nn.functional.kl_div(ours, expected, log_target=True, reduction="batchmean") < 1e-4
    assert {"plain/m-Q2_K", "plain/m-Q8_0", "weighted/m-Q2_K", "weighted/m-Q8_0"} < set(seen)
    assert found["types"]["Q2_K"]["with"] == pytest.approx(seen["weighted/m-Q2_K"].mean())
    assert found["types"]["Q2_K"]["without"] == pytest.approx(seen["plain/m-Q2_K"].mean())


def test_an_interval_holds_what_it_should() -> None:
    assert imatrix._interval(numpy.full(20, -0.5)) == [-0.5, -0.5]
    differences = numpy.random.default_rng(1).normal(0.1, 1.0, 400)
    low, high = imatrix._interval(differences)
    middle, error = differences.mean(), differences.std(ddof=1) / 20
    assert (low, high) == pytest.approx((middle - 1.96 * error, middle + 1.96 * error), abs=0.1 * error)
