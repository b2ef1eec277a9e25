"""Ratings of a panel: sides are turned back, a rater counts once, and agreement is Krippendorff's own example."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from eval.config import EvalConfig
from eval.evaluate import evaluate
from eval.panel import alpha, panel
from medllama.cli import main
from medllama.errors import InputError
from tests.eval.conftest import write_jsonl

EMPTY = {f"{aspect}_{side}": None for aspect in ("relevance", "accuracy", "coherence") for side in "ab"}


def rating(item: str, rater: str, choice: str, *, turned: bool = False, **given: Any) -> dict[str, Any]:
    models = ("base", "tuned")
    sides = dict(zip(("model_a", "model_b"), models[::-1] if turned else models, strict=True))
    return {
        "item_id": item,
        "rater": rater,
        **sides,
        "choice": choice,
        **EMPTY,
        "comment": "",
        "time": "2026-01-01",
        **given,
    }


def test_sides_are_turned_back_and_a_later_rating_replaces_an_earlier(tmp_path: Path) -> None:
    lines = [
        rating("1", "x", "b", accuracy_a=2, accuracy_b=5),
        rating("1", "y", "a", turned=True, accuracy_a=4, accuracy_b=1),
        rating("2", "x", "a"),
        rating("2", "x", "tie", time="2026-01-02"),
        rating("2", "y", "both_bad"),
        rating("3", "x", "a"),
    ]
    found = panel(write_jsonl(tmp_path / "ratings.jsonl", lines), seed=0)
    assert (found["ratings"], found["replaced"], found["items"], found["raters"]) == (5, 1, 3, 2)
    (pair,) = found["pairs"]
    assert pair["models"] == ["base", "tuned"]
    assert {model: wins["count"] for model, wins in pair["wins"].items()} == {"base": 1, "tuned": 2}
    assert (pair["ties"]["count"], pair["both_bad"]["count"]) == (1, 1)
    assert pair["preference"]["difference"] == pytest.approx(1 / 5)
    low, high = pair["preference"]["interval_95"]
    assert low < 0 < high
    assert pair["aspects"]["accuracy"]["tuned"] == {"ratings": 2, "mean": 4.5}
    assert pair["aspects"]["coherence"]["base"]["mean"] is None
    assert pair["aspects"]["coherence"]["agreement"] is None


def test_agreement_is_that_of_krippendorffs_example() -> None:
    """The published example of three coders and fifteen units with gaps: nominal 0.691, ordinal 0.807."""
    raters = {
        "A": ["", "", "", "", "", 3, 4, 1, 2, 1, 1, 3, 3, "", 3],
        "B": [1, "", 2, 1, 3, 3, 4, 3, "", "", "", "", "", "", ""],
        "C": ["", "", 2, 1, 3, 4, 4, "", 2, 1, 1, 3, 3, "", 4],
    }
    judged = [
        (f"{unit:02}", who, value) for who, values in raters.items() for unit, value in enumerate(values) if value
    ]
    assert alpha(judged, "nominal") == pytest.approx(0.691, abs=5e-4)
    assert alpha(judged, "ordinal") == pytest.approx(0.807, abs=5e-4)
    assert alpha([("1", "A", 3), ("2", "A", 4)], "ordinal") is None
    assert alpha([("1", "A", 3), ("1", "B", 3)], "ordinal") is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"choice": "c"}, "choice is 'c'"), ({"rater": ""}, "rater is no text"), ({"accuracy_a": 6}, "accuracy_a is 6, not 1 to 5"),
        ({"model_b": "base"}, "are the same"), ({"coherence_b": True}, "coherence_b is True"),
    ],
)  # fmt: skip
def test_what_is_no_rating_is_named(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "ratings.jsonl", [rating("1", "x", "a"), rating("1", "y", "a") | change])
    with pytest.raises(InputError, match=said) as caught:
        panel(path, seed=0)
    assert caught.value.message.startswith(f"{path}:2")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("item_id;rater\n1;x\n", "ratings.csv:2: item_id is no text"),
        ("item_id,rater,model_a,model_b,choice,accuracy_a\n1,x,base,tuned,a,4.5\n", "accuracy_a is '4.5'"),
        ("item_id,rater,model_a,model_b,choice\n", "has no ratings"),
    ],
)
def test_what_is_no_table_of_ratings_is_named(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        panel(tmp_path / "ratings.csv", 0)


def test_a_panel_needs_no_task(ggufs: dict[str, Path], tmp_path: Path) -> None:
    ratings = write_jsonl(tmp_path / "ratings.jsonl", [rating("1", "x", "b"), rating("1", "y", "b")])
    output = tmp_path / "results.json"
    for gguf in (None, ggufs["model"]):
        result = evaluate(EvalConfig(gguf=gguf, output=output, panel=ratings, domain_prompts=False))
        assert result.summary["line"] == "panel of 2 on 1 items"
        found = json.loads(output.read_text())
        assert found["panel"]["pairs"][0]["wins"]["tuned"]["count"] == 2
        assert found["tasks"] == []
        assert ("model" in found) == (gguf is not None)


def test_ratings_alone_are_a_command_and_their_fault_is_told_before_anything_is_measured(
    ggufs: dict[str, Path],
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ratings = write_jsonl(tmp_path / "ratings.jsonl", [rating("1", "x", "b"), rating("2", "y", "b")])
    output = tmp_path / "results.json"
    assert main(["eval", "--panel", str(ratings), "--output", str(output), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["line"] == "panel of 2 on 2 items"
    assert main(["eval", "--task", "medqa", "--output", str(output)]) == 2
    assert "gguf: name the file to measure" in capsys.readouterr().err
    assert main(["eval", "--panel", str(ratings), "--output", str(tmp_path)]) == 2
    assert "is a folder; name a file in it" in capsys.readouterr().err
    ratings.write_text('{"item_id": 1}')
    monkeypatch.setattr("eval.evaluate.Model", None)
    given = EvalConfig(gguf=ggufs["model"], output=output, data=data, panel=ratings)
    with pytest.raises(InputError, match="item_id is no text"):
        evaluate(given)
    with pytest.raises(InputError, match="'kld' is no bound"):
        evaluate(dataclasses.replace(given, panel=None, within="kld", card=(str(ggufs["model"]),)))
