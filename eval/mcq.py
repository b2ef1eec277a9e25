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

from eval import accuracy
from eval.scoring import FloatArray
from eval.tasks import Question
from eval.wording import Wording

MEASURES = ("sum", "per_byte", "per_token")
HEADLINE = "sum"
PROTOCOL = (
    "An option's score is the log-likelihood of the tokens of {answer} (not of a template's ending): their sum (the headline), the "
    "sum divided by UTF-8 bytes (per_byte), or by tokens (per_token). The highest score is the choice; a tie is a wrong answer. "
)
ROLES = ("model", "baseline")


def protocol(form: str, wording: Wording, shots: int, origin: str) -> str:
    """How it was asked and scored, in words."""
    examples = f"{shots}-shot, the first of {origin}" if shots else "zero-shot"
    asked = "as plain text" if form == "plain" else "in the file's chat template"
    answer = "the option's letter" if wording.scored_by == "letter" else "the option's text"
    return f"Wording: {wording.name}; {examples}, {asked}. {PROTOCOL.format(answer=answer)}{accuracy.INTERVALS}"


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
            # A few options of MedMCQA are empty texts.
            values = [total / max(1, length) for total, length in zip(sums, lengths[measure], strict=True)]
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
    summary: dict[str, Any] = {"measure": HEADLINE, **accuracies(items, HEADLINE, seed)}
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


def accuracies(items: Sequence[Mapping[str, Any]], measure: str, seed: int | None = None) -> dict[str, Any]:
    """Each role's accuracy by one measure, and the paired difference where there is a baseline."""
    right = {role: [kept[role]["is_right"][measure] for kept in items] for role in ROLES if role in items[0]}
    return accuracy.accuracies(right, [kept["document_id"] for kept in items], seed)


def warnings(summary: Mapping[str, Any], items: int) -> list[str]:
    """What a reader of the headline must know."""
    if found := accuracy.too_small(summary, items):
        return found
    sides = {measure: _side(its) for measure, its in summary["by_measure"].items()}
    others = [measure for measure, side in sides.items() if side != sides[HEADLINE]]
    return [f"the measures disagree: {' and '.join(others)} cannot tell, or says otherwise"] if others else []


def _side(found: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether the model is better, and whether it is worse, beyond chance."""
    low, high = found["difference"]["interval_95"] if "difference" in found else (0, 0)
    return low > 0, high < 0


def line(summary: Mapping[str, Any]) -> str:
    """The headline in words."""
    return accuracy.line(summary)
