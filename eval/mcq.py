"""Multiple choice: the option that a model finds likeliest as the answer to the question, and how sure the accuracy is.

The question alone is the prompt; every option is scored as the whole answer, as if the model had said it. The headline is the
sum over the option's tokens: the probability of that answer, with no length to divide by (lm-evaluation-harness's acc). It
favors short options; the means per byte (its acc_norm) and per token favor long predictable ones, so both stand beside it. Of
the three the untuned embedded base does best by the sum, so the headline compares with the base's best case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.scoring import FloatArray
from eval.statistics import mcnemar_exact, paired_interval, proportion_standard_error, wilson_interval
from eval.tasks import Question

MEASURES = ("sum", "per_byte", "per_token")
HEADLINE = "sum"
PROTOCOL = (
    "Zero-shot, in the file's chat template: the question is the user's message, each option the assistant's whole answer. An "
    "option's score is the log-likelihood of the tokens of its text (not of the template's ending): their sum (the headline), the "
    "sum divided by the text's UTF-8 bytes (per_byte), or by its tokens (per_token). The highest score is the choice; a tie is a "
    "wrong answer. Intervals: Wilson's for an accuracy, Tango's (1998) score interval for the paired difference, both 95%; p: "
    "McNemar's exact test, two-sided. Items count as independent."
)
ROLES = ("model", "baseline")


def item(question: Question, tokens: Sequence[int], scores: Mapping[str, Sequence[FloatArray]]) -> dict[str, Any]:
    """What is kept of one question: a JSON object.

    tokens: (options,) tokens of each option's text; scores: of each role the (options,) log-likelihoods of those tokens.
    """
    lengths = {
        "sum": [1] * len(tokens),
        "per_byte": [len(text.encode()) for text in question.options.values()],
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


def summarize(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Accuracies with intervals, their difference, and the same by subject. Needs nothing but the items."""
    roles = [role for role in ROLES if role in items[0]]
    subjects = sorted({kept["subject"] for kept in items})
    summary: dict[str, Any] = {"measure": HEADLINE, **accuracies(items, HEADLINE)}
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
