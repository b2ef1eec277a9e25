"""A panel's figures against SciPy's Wilson interval and the closed form of Bradley and Terry for two."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from scipy import optimize, stats

from app.preferences import Versus, bradley_terry, latest, versus, wilson
from app.preferences_view import preferences_html
from app.ratings import as_jsonl
from eval.panel import panel


def rating(a: str, b: str, choice: str, **given: object) -> dict[str, object]:
    scales = dict.fromkeys(f"{scale}_{side}" for scale in ("relevance", "accuracy", "coherence") for side in "ab")
    return {"item_id": "1", "rater": "AB", "model_a": a, "model_b": b, "choice": choice, **scales, **given}


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (3, 10), (50, 100), (999, 1000)])
def test_the_interval_is_wilsons(successes: int, trials: int) -> None:
    expected = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert wilson(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_win_counts_for_the_model_whatever_its_side() -> None:
    ratings = [
        rating("base", "tuned", "b"), rating("tuned", "base", "a"), rating("tuned", "base", "b"),
        rating("base", "tuned", "tie"), rating("tuned", "base", "both_bad"), rating("base", "tuned", "both_bad"),
    ]  # fmt: skip
    (found,) = versus(ratings, ["base", "tuned"])
    assert found == Versus("tuned", "base", won=2, lost=1, tied=1, both_bad=2)
    assert found.win_rate == pytest.approx(2 / 3)
    assert versus([rating("base", "tuned", "tie")], ["base", "tuned"])[0].win_rate is None


def test_somebody_who_judges_again_counts_once_as_in_eval(tmp_path: Path) -> None:
    ratings = [
        rating("base", "tuned", "b", time="2026-01-01"), rating("tuned", "base", "both_bad", time="2026-01-02"),
        rating("base", "tuned", "b", rater="CD", time="2026-01-01"), rating("base", "other", "a", time="2026-01-01"),
    ]  # fmt: skip
    assert latest(ratings) == ratings[1:]
    (tmp_path / "ratings.jsonl").write_text(as_jsonl(ratings))
    counted = {tuple(pair["models"]): pair for pair in panel(tmp_path / "ratings.jsonl", 0)["pairs"]}
    for shown in versus(latest(ratings), ["base", "tuned", "other"]):
        pair = counted[tuple(sorted((shown.model, shown.other)))]
        assert (shown.won, shown.lost) == (pair["wins"][shown.model]["count"], pair["wins"][shown.other]["count"])
        assert (shown.tied, shown.both_bad) == (pair["ties"]["count"], pair["both_bad"]["count"])


def test_the_score_of_two_is_the_log_odds() -> None:
    scores = bradley_terry([Versus("tuned", "base", won=7, lost=2, tied=2, both_bad=0)])
    assert scores == pytest.approx({"base": 0, "tuned": math.log((7 + 1 + 0.5) / (2 + 1 + 0.5))}, abs=1e-8)
    assert bradley_terry([]) == {}


def test_the_scores_of_four_are_the_likeliest() -> None:
    random.seed(0)
    names = ["a", "b", "c", "d"]
    pairs = [
        Versus(one, other, random.randint(0, 9), random.randint(0, 9), random.randint(0, 3), random.randint(0, 3))
        for place, one in enumerate(names)
        for other in names[place + 1 :]
    ]

    def against(values: list[float]) -> float:
        """The negative log likelihood, a tie and the half win each way included."""
        score = dict(zip(names, [0.0, *values], strict=True))
        lost = 0.0
        for it in pairs:
            half = 0.5 + (it.tied + it.both_bad) / 2
            difference = score[it.model] - score[it.other]
            lost += (it.won + half) * math.log1p(math.exp(-difference)) + (it.lost + half) * math.log1p(
                math.exp(difference)
            )
        return lost

    best = optimize.minimize(against, [0.0] * 3, method="BFGS", options={"gtol": 1e-9}).x
    scores = bradley_terry(pairs)
    assert scores == pytest.approx(
        {name: value - best[0] for name, value in zip(names, [0.0, *best], strict=True)}, abs=1e-5
    )


def test_models_that_no_comparison_connects_have_no_common_score() -> None:
    pairs = [Versus("b", "a", 1, 0, 0, 0), Versus("d", "c", 3, 0, 0, 0), Versus("e", "b", 0, 1, 0, 0)]
    scores = bradley_terry(pairs)
    assert {name for name, score in scores.items() if score is not None} == {"a", "b", "e"}
    assert scores["e"] == pytest.approx(0), "as often beaten by b as a"
    html = preferences_html(pairs, [rating("a", "b", "b"), rating("c", "d", "b", accuracy_b=4)], ("accuracy",))
    assert html.count("not compared with a</td>") == 2
    assert "4.0 (n = 1)" in html


def test_what_is_shown_has_every_figure_and_no_markup() -> None:
    assert "No rating yet." in preferences_html([], [], ("accuracy",))
    ratings = [
        rating("base", "<b>tuned</b>", "b", accuracy_a=2, accuracy_b=5),
        rating("base", "<b>tuned</b>", "b", accuracy_b=4),
    ]
    html = preferences_html(versus(ratings, ["base", "<b>tuned</b>"]), ratings, ("accuracy", "coherence"))
    assert "2 ratings of 1 question." in html
    assert "100% (34% to 100%)" in html
    assert "4.5 (n = 2)" in html
    assert "2.0 (n = 1)" in html
    assert "not rated" in html
    assert "+1.61" in html, "log(2.5 / 0.5)"
    assert "<b>" not in html
