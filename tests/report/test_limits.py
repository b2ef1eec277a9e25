"""What a reader must know is derived from the run: each limit appears where the run shows it, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from report.figures import collect
from tests.report.runs import change, write_lines

RESULTS, CERTIFICATE, TRAINING = "eval/results.json", "certificate.json", "adapter/training.json"


def texts(run: Path) -> list[str]:
    return [limit["text"] for limit in collect(run)["limits"]]


def edited(name: str, edit: Callable[[Any], Any]) -> Callable[[Path], Any]:
    return lambda run: change(run / name, edit)


@pytest.mark.parametrize(
    ("cause", "limit"),
    [
        (edited(RESULTS, lambda it: it["tasks"][0]["model"].update(right=20)), "is at its ceiling: all 20 items"),
        (
            edited(RESULTS, lambda it: it["tasks"][0]["warnings"].append("too small to tell")),
            "test: too small to tell.",
        ),
        (edited(RESULTS, lambda it: it.update(baseline=None)), "The base was not measured beside the model"),
        (edited(RESULTS, lambda it: it["tasks"].pop(0)), "There is no multiple-choice test"),
        (edited(RESULTS, lambda it: it.pop("samples")), "No answers were kept to read."),
        (
            edited(RESULTS, lambda it: it["generation"]["exactly_right"]["model"].update(right=0)),
            "the tuned model gave the expected words and no more to 0 of 16 held-out questions",
        ),
        (
            edited(RESULTS, lambda it: it["generation"]["warnings"].append("too small to tell")),
            "Free answers: too small to tell.",
        ),
        (lambda run: (run / RESULTS).unlink(), "The model was not measured."),
        (lambda run: (run / CERTIFICATE).unlink(), "There is no certificate"),
        (
            edited(
                CERTIFICATE, lambda it: it["files"][0]["checks"][0].update(verdict="fail", likely_cause="a row twice")
            ),
            "tiny-Q4_K_M.gguf failed the check tensors: a row twice.",
        ),
        (
            edited(CERTIFICATE, lambda it: it["files"][0]["checks"][0].update(verdict="skipped", reason="no template")),
            "The check tensors of tiny-Q4_K_M.gguf was not made: no template.",
        ),
        (edited(CERTIFICATE, lambda it: it.update(sampled={"strings": 99})), "looked at a sample: strings 99."),
        (
            edited(TRAINING, lambda it: it["records"]["train"].update(truncated=7)),
            "7 of 1,180 train records were cut to the longest length in training.",
        ),
        (
            edited("data/data_card.json", lambda it: it.update(publishable=False)),
            "do not clearly allow the model to be",
        ),
    ],
)
def test_a_limit_appears_where_the_run_shows_it_and_nowhere_else(
    run: Path, cause: Callable[[Path], Any], limit: str
) -> None:
    assert not any(limit in text for text in texts(run))
    cause(run)
    assert any(limit in text for text in texts(run))


def test_some_limits_always_hold(run: Path) -> None:
    found = collect(run)["limits"]
    assert found[0]["text"].startswith("This is no medical device.")
    assert found[0]["first"]
    assert found[-1]["text"].startswith("Not measured: ")
    assert any("20 of 50 records were measured, 30 were not drawn" in limit["text"] for limit in found)
    assert any(
        "another next token likeliest than the unrounded model at 13.4% of 2,599 places" in text for text in texts(run)
    )


@pytest.mark.parametrize(
    ("trained", "limit"),
    [
        (range(30), "All 20 documents behind the multiple-choice test are in the training data too."),
        (range(15, 40), "5 of the 20 documents behind the multiple-choice test are in the training data too"),
        (range(20, 40), "None of the 20 documents behind the multiple-choice test is in the training data."),
    ],
)
def test_held_out_facts_are_told_from_held_out_wordings(run: Path, trained: range, limit: str) -> None:
    write_lines(run / "data/train.jsonl", [{"document_id": f"drug/{number}"} for number in trained])
    assert sum(limit in text for text in texts(run)) == 1


def test_what_training_saw_of_a_test_from_elsewhere_is_not_known(run: Path) -> None:
    change(run / RESULTS, lambda it: it["tasks"][0].update(sha256="00" * 32))
    assert "Whether training had seen what the multiple-choice test asks about is not known." in texts(run)


def test_what_the_stages_noted_is_told_in_their_words(run: Path) -> None:
    assert [note["text"] for note in collect(run)["notes"]] == ["Left out of leaflets: 4 duplicate."]
    change(run / "data/data_card.json", lambda it: it["sources"][0]["problems"].append("a.jsonl:3: no answer"))
    change(run / "manifests/convert.json", lambda it: it["summary"].update(notes=["scores were repaired"]))
    change(run / "manifests/package.json", lambda it: it["summary"].update(obstacles=["a licence is unknown"]))
    assert [note["text"] for note in collect(run)["notes"]][1:] == [
        "In leaflets: a.jsonl:3: no answer",
        "scores were repaired",
        "a licence is unknown",
    ]
