"""What a panel preferred, as tables and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from app.plots import intervals_svg, table_html
from app.preferences import Versus, bradley_terry


def preferences_html(pairs: Sequence[Versus], ratings: Sequence[Mapping[str, Any]], scales: Sequence[str]) -> str:
    """Win rates with intervals, scores, and the means of the scales."""
    if not ratings:
        return '<p class="pending">No rating yet.</p>'
    rows = [
        [it.model, it.other, it.won, it.lost, it.tied, it.both_bad, _rate(it)]
        for it in pairs
    ]  # fmt: skip
    head = ["model", "against", "won", "lost", "tie", "both bad", "win rate, 95% interval (Wilson)"]
    plotted = [
        (f"{it.model} against {it.other}", it.win_rate, it.interval_95)
        for it in pairs
        if it.win_rate is not None and it.interval_95 is not None
    ]
    scores = bradley_terry(pairs)
    means = _means(ratings, scales)
    first = next(iter(scores), "")
    score_rows = [
        [
            name,
            f"not compared with {first}" if score is None else f"{score:+.2f}",
            *(means.get(name, {}).get(scale, "not rated") for scale in scales),
        ]
        for name, score in scores.items()
    ]
    questions = len({rating["item_id"] for rating in ratings})
    count = f"{_counted(len(ratings), 'rating')} of {_counted(questions, 'question')}"
    plot = intervals_svg("Win rate with its 95% interval", plotted, middle=0.5) if plotted else ""
    return (
        f'<p class="legend">{count}. Who judges a question again counts once, with the latest rating. '
        f"A win rate is of the comparisons that were decided.</p>{table_html(head, rows)}{plot}"
        + table_html(["model", "Bradley-Terry score", *(f"{scale}, mean of 1 to 5" for scale in scales)], score_rows)
        + '<p class="legend">The score is in log odds, the first model at 0; ties and both bad count as half a win each.</p>'
    )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _rate(pair: Versus) -> str:
    if pair.win_rate is None or pair.interval_95 is None:
        return "none decided"
    low, high = pair.interval_95
    return f"{pair.win_rate:.0%} ({low:.0%} to {high:.0%})"


def _means(ratings: Sequence[Mapping[str, Any]], scales: Sequence[str]) -> dict[str, dict[str, str]]:
    """Per model and scale: the mean of what was rated, and of how many."""
    given: dict[str, dict[str, list[int]]] = {}
    for rating in ratings:
        for side in "ab":
            for scale in scales:
                if (value := rating[f"{scale}_{side}"]) is not None:
                    given.setdefault(rating[f"model_{side}"], {}).setdefault(scale, []).append(value)
    return {
        model: {scale: f"{mean(values):.1f} (n = {len(values)})" for scale, values in found.items()}
        for model, found in given.items()
    }
