"""Figures in plain words, for the Markdown and the slides: one rounding for both."""

from __future__ import annotations

from typing import Any


def percent(share: float | None) -> str:
    return "not measured" if share is None else f"{share:.1%}"


def interval(limits: list[float], scale: float, digits: int) -> str:
    """`+25.6 to +33.5` of a difference, `69.9 to 97.2` of a share."""
    return " to ".join(f"{scale * limit:.{digits}f}" for limit in limits)


def setting(value: Any) -> str:
    """A hyper-parameter as a recipe has it."""
    if isinstance(value, list):
        return ", ".join(map(setting, value)) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None or value == {} else str(value)


def headline_text(figures: dict[str, Any]) -> str:
    """The verdict of the run in one sentence."""
    verdict, task = figures["headline"]["verdict"], figures["headline"]["task"]
    told = {
        "better": "The tuned model is better than its base",
        "worse": "The tuned model is worse than its base",
        "unclear": "Whether the tuned model is better than its base cannot be told",
        "not compared": "The tuned model was measured, its base was not",
        "not measured": "The model was not measured",
    }
    return f"**{told[verdict]}**{f', by {task}' if task else ''}. It is no medical device."


def task_rows(figures: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row per task, and one of the free answers: name and measure, items, base, tuned, difference with its 95% interval."""
    rows: list[tuple[str, ...]] = []
    for task in figures["evaluation"]["tasks"]:
        if task["kind"] == "multiple_choice":
            rows.append((f"{task['task']}, accuracy", f"{task['measured']:,}", *_accuracies(task)))
        else:
            part = task["answer_text"]
            shown = [_perplexity(part[role]) for role in ("baseline", "model")]
            difference, name = part["difference"], f"{task['task']}, perplexity"
            limits = difference and difference["interval_95"]
            told = difference and f"{difference['nats_per_token']:+.3f} nats" + (
                f" ({interval(limits, 1, 3)})" if limits else ""
            )
            rows.append((name, f"{task['measured']:,}", *shown, told or ""))
    if free := figures["generation"]:
        rows.append(("free answers, exactly right", f"{free['measured']:,}", *_accuracies(free["exactly_right"])))
    return rows


def _accuracies(found: dict[str, Any]) -> tuple[str, str, str]:
    """Of base and tuned, and their difference."""
    base, tuned = (percent((found[role] or {}).get("accuracy")) for role in ("baseline", "model"))
    difference = found["difference"]
    told = difference and (
        f"{100 * difference['accuracy']:+.1f} points ({interval(difference['interval_95'], 100, 1)}), "
        f"McNemar p {difference['mcnemar_exact_p']:.3g}"
    )
    return base, tuned, told or ""


def _perplexity(part: dict[str, Any] | None) -> str:
    value = part and part["perplexity"]
    return "not measured" if not value else f"{value:.2f}"
