"""Perplexity of answers and texts: how surprised a model is by words that it was not trained on.

By token it compares models of one tokenizer, by byte of any. A base has never seen the template's end of an answer and
finds it very unlikely, which says nothing about medicine. So the headline is over the tokens of the answers' text; with
the endings, the number is the loss that training reports.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import numpy.typing

from eval.mcq import ROLES
from eval.scoring import FloatArray
from eval.statistics import Z_95, clustered_mean
from eval.tasks import Passage

PROTOCOL = (
    "Every record is one sequence in the file's chat template, from an empty cache. A longer one than {window:,} tokens is read in "
    "windows of so many, each {step:,} tokens after the one before and beginning with BOS; a token is measured "
    "once, in the first window that holds it. answer_text: mean negative log-likelihood of the tokens of the answers' text; "
    "with_ending: of these and the template's ending of an answer, which is the loss of training. Perplexity is exp of the mean. "
    "Standard errors: ratio estimator with documents (document_id) as clusters; intervals: 1.96 of them, 95%. "
    "nats_per_byte divides by the UTF-8 bytes of the same text."
)
WINDOWS_PROTOCOL = (
    "The text of the file is cut into windows of {window:,} tokens that do not overlap, without the rest at its "
    "end; the first token of "
    "each is replaced by BOS, and the second half of a window is measured: the definition of llama.cpp's "
    "llama-perplexity. Perplexity "
    "is exp of the mean negative log-likelihood of a token. Standard errors: ratio estimator with windows as clusters; intervals: "
    "1.96 of them, 95%. nats_per_byte divides by the UTF-8 bytes of the measured tokens."
)
HEADLINE = "answer_text"
PARTS = ("answer_text", "with_ending")


def item(
    passage: Passage, is_text: numpy.typing.NDArray[numpy.bool_], text_bytes: int, scores: Mapping[str, FloatArray]
) -> dict[str, Any]:
    """What is kept of one record: a JSON object. is_text: (labels,) bool; text_bytes: of the text alone; scores: of each role
    (labels,) nats."""
    return {
        "id": passage.record_id,
        "document_id": passage.document_id,
        "subject": passage.subject,
        "tokens": {"answer_text": int(is_text.sum()), "with_ending": len(is_text)},
        "bytes": text_bytes,
        **{
            role: {
                "log_likelihood": {"answer_text": float(values[is_text].sum()), "with_ending": float(values.sum())},
            }
            for role, values in scores.items()
        },
    }


def summarize(items: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, Any]:
    """Perplexities with standard errors, their difference, and the same by subject. Needs nothing but the items."""
    subjects = sorted({kept["subject"] for kept in items})
    return {
        "part": HEADLINE,
        **{part: likelihoods(items, part) for part in PARTS},
        "by_subject": [
            {"subject": subject, "records": len(its), **likelihoods(its, HEADLINE)}
            for subject in subjects
            for its in [[kept for kept in items if kept["subject"] == subject]]
        ],
    }


def likelihoods(items: Sequence[Mapping[str, Any]], part: str) -> dict[str, Any]:
    """Each role's mean over the tokens of one part, and the paired difference where there is a baseline."""
    numbers = {document: number for number, document in enumerate(dict.fromkeys(kept["document_id"] for kept in items))}
    documents = numpy.array([numbers[kept["document_id"]] for kept in items])
    counts = _by_document(documents, [kept["tokens"][part] for kept in items])
    sums = {
        role: _by_document(documents, [-kept[role]["log_likelihood"][part] for kept in items])
        for role in ROLES
        if role in items[0]
    }
    text_bytes = sum(kept["bytes"] for kept in items)
    found: dict[str, Any] = {"tokens": int(counts.sum()), "documents": len(numbers), "bytes": text_bytes}
    for role, its in sums.items():
        mean = _mean(its, counts)
        limits = [_exp(limit) for limit in mean["interval_95"] or ()]
        found[role] = {
            **mean,
            "perplexity": _exp(mean["nats_per_token"]),
            "perplexity_interval_95": limits if limits and None not in limits else None,
            "nats_per_byte": float(its.sum()) / text_bytes if part == HEADLINE and text_bytes else None,
        }
    if "baseline" in sums:
        found["difference"] = _mean(sums["model"] - sums["baseline"], counts)
    return found


def _by_document(documents: numpy.typing.NDArray[numpy.int64], values: Sequence[float]) -> FloatArray:
    """The sums of `values` (records,) by document: (documents,)."""
    return numpy.bincount(documents, values).astype(numpy.float64)


def _mean(sums: FloatArray, counts: FloatArray) -> dict[str, Any]:
    mean, error = clustered_mean(sums, counts)
    return {
        "nats_per_token": mean,
        "standard_error": error,
        "interval_95": None if error is None else [mean - Z_95 * error, mean + Z_95 * error],
    }


def _exp(nats: float) -> float | None:
    """exp, or None where it is no finite float: JSON has no infinity."""
    return math.exp(nats) if nats < 700 else None


def warnings(summary: Mapping[str, Any], records: int) -> list[str]:
    """What a reader of the headline must know."""
    headline = summary[HEADLINE]
    if headline["documents"] < 2:
        return [f"{records:,} records of a single document: there is no standard error"]
    if "difference" not in headline:
        return []
    low, high = headline["difference"]["interval_95"]
    if low > 0 or high < 0:
        return []
    return [
        f"too small to tell: on {headline['documents']:,} documents a difference between {low:+.3f} and {high:+.3f} nats a token "
        "is compatible with what was seen, and that includes none"
    ]


def line(summary: Mapping[str, Any]) -> str:
    """The headline in words."""
    headline = summary[HEADLINE]
    shown = [_shown(headline[role]["perplexity"]) for role in ROLES if role in headline]
    return " against ".join(shown)


def _shown(perplexity: float | None) -> str:
    return "over 1e304" if perplexity is None else f"{perplexity:,.2f}" if perplexity < 1e6 else f"{perplexity:.1e}"
