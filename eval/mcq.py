"""Multiple choice: the option that a model finds likeliest as the answer to the question, and how sure the accuracy is.

Every option is scored as the answer to one prompt (eval/wording.py). The headline is the sum over the answer's tokens: its
probability, with no length to divide by (lm-evaluation-harness's acc). It favors short options; the means per byte (its acc_bytes,
and acc_norm where all is ASCII) and per token favor long predictable ones, so both stand beside it. Of the three the untuned
embedded base does best by the sum, so the headline compares with the base's best case. Letters are all as long: there
the three are one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from eval.scoring import FloatArray
from eval.statistics import (
    bootstrap_interval,
    mcnemar_exact,
    paired_interval,
    proportion_standard_error,
    wilson_interval,
)
from eval.tasks import Question
from eval.wording import Wording

MEASURES = ("sum", "per_byte", "per_token")
HEADLINE = "sum"
PROTOCOL = (
    "An option's score is the log-likelihood of the tokens of {answer} (not of a template's ending): their sum (the headline), the "
    "sum divided by UTF-8 bytes (per_byte), or by tokens (per_token). The highest score is the choice; a tie is a "
    "wrong answer. Intervals: Wilson's for an accuracy, Tango's (1998) score interval for the paired difference, both 95%; p: "
    "McNemar's exact test, two-sided. Items count as independent there; bootstrap_95 is over documents, "
    "{resamples:,} resamples with the run's seed."
)
RESAMPLES = 10_000
ROLES = ("model", "baseline")


def protocol(form: str, wording: Wording, shots: int, origin: str) -> str:
    """How it was asked and scored, in words."""
    examples = f"{shots}-shot, the first of {origin}" if shots else "zero-shot"
    asked = "as plain text" if form == "plain" else "in the file's chat template"
    answer = "the option's letter" if wording.scored_by == "letter" else "the option's text"
    return f"Wording: {wording.name}; {examples}, {asked}. " + PROTOCOL.format(answer=answer, resamples=RESAMPLES)


def item(
    question: Question, said: Sequence[str], tokens: Sequence[int], scores: Mapping[str, Sequence[FloatArray]]
) -> dict[str, Any]:
    """What is kept of one question: a JSON object.

    said: (options,) the answers that are scored; tokens: (options,) of each; scores: of each role their (options,) log-likelihoods.
    """
    lengths = {
        "sum": [1] * len(tokens),
        "per_byte": [len(text.encode()) for text in said],
        "per_token": list(tokens),
    }
    kept: dict[str, Any] = {
        "id": question.record_id,
        "document_id": question.document_id,
        "subject": question.subject,
        "answer": question.answer,
        "bytes": dict(zip(question.options, lengths["per_byte"], strict=True)),
        "tokens": dict(zip(question.options, tokens, strict=True)),
    }
    for role, options in scores.items():
        sums = [float(values.sum()) for values in options]
        choices = {}
        for measure in MEASURES:
            values = [total / length for total, length in zip(sums, lengths[measure], strict=True)]
            choices[measure] = choose(dict(zip(question.options, values, strict=True)))
        kept[role] = {
            "log_likelihood": dict(zip(question.options, sums, strict=True)),
            "choice": choices,
            "is_right": {measure: choice == question.answer for measure, choice in choices.items()},
        }
    return kept


def choose(scores: Mapping[str, float]) -> str | None:
    """The option with the highest score; None where two share it, so that the order of the options decides nothing."""
    highest = max(scores.values())
    best = [option for option, value in scores.items() if value == highest]
    return best[0] if len(best) == 1 else None


def summarize(items: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, Any]:
    """Accuracies with intervals, their difference, and the same by subject. Needs nothing but the items."""
    roles = [role for role in ROLES if role in items[0]]
    subjects = sorted({kept["subject"] for kept in items})
    summary: dict[str, Any] = {"measure": HEADLINE, **accuracies(items, HEADLINE)}
    if "difference" in summary:
        summary["difference"]["bootstrap_95"] = bootstrap(items, seed)
    summary["by_measure"] = {measure: accuracies(items, measure) for measure in MEASURES}
    summary["by_subject"] = [
        {
            "subject": subject,
            "items": len(its),
            **{role: sum(kept[role]["is_right"][HEADLINE] for kept in its) / len(its) for role in roles},
        }
        for subject in subjects
        for its in [[kept for kept in items if kept["subject"] == subject]]
    ]
    return summary


def accuracies(items: Sequence[Mapping[str, Any]], measure: str) -> dict[str, Any]:
    """Each role's accuracy by one measure, and the paired difference where there is a baseline."""
    total = len(items)
    right = {role: [kept[role]["is_right"][measure] for kept in items] for role in ROLES if role in items[0]}
    found: dict[str, Any] = {
        role: {
            "right": sum(its),
            "accuracy": sum(its) / total,
            "standard_error": proportion_standard_error(sum(its), total),
            "interval_95": list(wilson_interval(sum(its), total)),
        }
        for role, its in right.items()
    }
    if "baseline" in right:
        pairs = list(zip(right["model"], right["baseline"], strict=True))
        gained, lost = pairs.count((True, False)), pairs.count((False, True))
        found["difference"] = {
            "accuracy": (gained - lost) / total,
            "interval_95": list(paired_interval(gained, lost, total)),
            "mcnemar_exact_p": mcnemar_exact(gained, lost),
            "only_model_right": gained,
            "only_baseline_right": lost,
        }
    return found


def bootstrap(items: Sequence[Mapping[str, Any]], seed: int) -> list[float]:
    """The interval of the difference where whole documents are drawn again: wordings of one fact are not independent."""
    numbers = {document: number for number, document in enumerate(dict.fromkeys(kept["document_id"] for kept in items))}
    clusters = numpy.array([numbers[kept["document_id"]] for kept in items])
    gains = [float(kept["model"]["is_right"][HEADLINE]) - kept["baseline"]["is_right"][HEADLINE] for kept in items]
    return list(bootstrap_interval(numpy.array(gains), clusters, seed, RESAMPLES))


def warnings(summary: Mapping[str, Any], items: int) -> list[str]:
    """What a reader of the headline must know."""
    difference = summary.get("difference")
    if difference is None:
        return []
    low, high = difference["interval_95"]
    if low > 0 or high < 0:
        sides = {measure: its["difference"]["interval_95"] for measure, its in summary["by_measure"].items()}
        others = [
            measure
            for measure, (its_low, its_high) in sides.items()
            if (its_low > 0, its_high < 0) != (low > 0, high < 0)
        ]
        return [f"the measures disagree: {' and '.join(others)} cannot tell, or says otherwise"] if others else []
    return [
        f"too small to tell: on {items:,} items a difference between {100 * low:+.1f} and {100 * high:+.1f} points is compatible "
        "with what was seen, and that includes none"
    ]


def line(summary: Mapping[str, Any]) -> str:
    """The headline in words."""
    text = f"{summary['model']['accuracy']:.1%}"
    if "difference" not in summary:
        low, high = summary["model"]["interval_95"]
        return f"{text} (95% interval {100 * low:.1f} to {100 * high:.1f})"
    low, high = summary["difference"]["interval_95"]
    return (
        f"{text} against {summary['baseline']['accuracy']:.1%} of the base "
        f"({100 * summary['difference']['accuracy']:+.1f}, 95% interval {100 * low:.1f} to {100 * high:.1f})"
    )
