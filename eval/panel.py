"""A panel of people: blind ratings in, how often each model was preferred and how far the raters agree.

    medllama eval --panel ratings.jsonl --output panel.json

A line of the file is what the app exports, as JSONL or, where it ends in .csv, as CSV: item_id, rater, model_a, model_b, choice
(a, b, tie or both_bad), relevance_a, relevance_b, accuracy_a, accuracy_b, coherence_a, coherence_b (1 to 5 or null), comment, time.
Which side a model stood on is turned back here. Somebody who rates a pair twice is counted once, with the later line.

Agreement is Krippendorff's alpha (the `krippendorff` package): nominal for choices, ordinal for ratings; 1 is perfect, 0 what chance
gives. Items with a single rater say nothing about it. Intervals of win rates draw whole items again, since raters of one item
saw the same answers.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy

from eval.statistics import bootstrap_interval
from medllama.errors import InputError
from medllama.files import read_jsonl, read_text, sha256_file

CHOICES = ("a", "b", "tie", "both_bad")
ASPECTS = ("relevance", "accuracy", "coherence")
SCORES = tuple(f"{aspect}_{side}" for aspect in ASPECTS for side in "ab")
HINT = "the app's page exports ratings; their fields are item_id, rater, model_a, model_b, choice (a, b, tie, both_bad), ..."
RESAMPLES = 10_000
PROTOCOL = (
    "Blind: raters did not see which model was which. A win is a preferred answer; ties and pairs of which both were bad count as "
    "no win of either. Win rates are of all ratings; intervals: bootstrap over items, 95%. Agreement: Krippendorff's alpha, nominal "
    "for choices, ordinal for ratings, over items that two or more people rated."
)
Rating = dict[Any, Any]  # (aspect, model) are keys too


def panel(path: Path, seed: int) -> dict[str, Any]:
    """What the ratings in a file say. Raises InputError with file and line for what is no rating."""
    latest: dict[tuple[str, ...], Rating] = {}
    lines = 0
    for place, value in read_ratings(path):
        rating, lines = _rating(value, place), lines + 1
        key = (rating["item_id"], rating["rater"], *rating["pair"])
        if key not in latest or rating["time"] >= latest[key]["time"]:
            latest[key] = rating
    if not latest:
        raise InputError(f"{path} has no ratings", hint=HINT)
    ratings = list(latest.values())
    pairs = sorted({rating["pair"] for rating in ratings})
    return {
        "file": path.name,
        "sha256": sha256_file(path),
        "protocol": PROTOCOL,
        "ratings": len(ratings),
        "replaced": lines - len(ratings),
        "items": len({rating["item_id"] for rating in ratings}),
        "raters": len({rating["rater"] for rating in ratings}),
        "pairs": [_pair(pair, [it for it in ratings if it["pair"] == pair], seed) for pair in pairs],
    }


def read_ratings(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every rating with its place, `file:line`."""
    if path.suffix.lower() != ".csv":
        yield from read_jsonl(path, HINT)
        return
    rows = csv.DictReader(io.StringIO(read_text(path), newline=""), restval="")
    try:
        for row in rows:
            yield f"{path}:{rows.line_num}", {name: _cell(name, text) for name, text in row.items()}
    except csv.Error as error:
        raise InputError(f"{path}:{rows.line_num} is not CSV: {error}", hint=HINT) from None


def _cell(name: str | None, text: Any) -> Any:
    """A cell as the app meant it: a score, or a text without the apostrophe that keeps it from being a formula."""
    if name in SCORES:
        return int(text) if text in ("1", "2", "3", "4", "5") else text or None
    is_guarded = isinstance(text, str) and text[:1] == "'" and text[1:2] in tuple("=+-@\t\r")
    return text[1:] if is_guarded else text


def _rating(value: dict[str, Any], place: str) -> Rating:
    """A line with its sides turned so that the models stand in alphabetical order."""
    for key in ("item_id", "rater", "model_a", "model_b"):
        if not isinstance(value.get(key), str) or not value[key].strip():
            raise InputError(f"{place}: {key} is no text", hint=HINT)
    if value["model_a"] == value["model_b"]:
        raise InputError(f"{place}: model_a and model_b are the same", hint=HINT)
    if value.get("choice") not in CHOICES:
        raise InputError(f"{place}: choice is {value.get('choice')!r}, not a, b, tie or both_bad", hint=HINT)
    pair = tuple(sorted((value["model_a"], value["model_b"])))
    models = {"a": value["model_a"], "b": value["model_b"]}
    rating: Rating = {key: value[key] for key in ("item_id", "rater")}
    rating |= {
        "pair": pair,
        "choice": models.get(value["choice"], value["choice"]),
        "time": str(value.get("time") or ""),
    }
    for aspect, side in itertools.product(ASPECTS, models):
        score = value.get(f"{aspect}_{side}")
        if score is not None and (isinstance(score, bool) or score not in (1, 2, 3, 4, 5)):
            raise InputError(f"{place}: {aspect}_{side} is {score!r}, not 1 to 5 or null", hint=HINT)
        rating[aspect, models[side]] = score
    return rating


def _pair(pair: tuple[str, str], ratings: Sequence[Rating], seed: int) -> dict[str, Any]:
    """Win rates, mean ratings and agreement of two models."""
    return {
        "models": list(pair),
        "ratings": len(ratings),
        "wins": {model: _share(ratings, model, seed) for model in pair},
        "ties": _share(ratings, "tie", seed),
        "both_bad": _share(ratings, "both_bad", seed),
        "preference": _preference(ratings, pair, seed),
        "agreement_of_choices": alpha([(it["item_id"], it["rater"], it["choice"]) for it in ratings], "nominal"),
        "aspects": {aspect: _aspect(aspect, pair, ratings) for aspect in ASPECTS},
    }


def _share(ratings: Sequence[Rating], choice: str, seed: int) -> dict[str, Any]:
    chosen = numpy.array([float(rating["choice"] == choice) for rating in ratings])
    interval = bootstrap_interval(chosen, _items(ratings), seed, RESAMPLES)
    return {"count": int(chosen.sum()), "share": float(chosen.mean()), "interval_95": list(interval)}


def _preference(ratings: Sequence[Rating], pair: tuple[str, str], seed: int) -> dict[str, Any]:
    """How much more often the second model won than the first, as a share of all ratings."""
    values = numpy.array([float(it["choice"] == pair[1]) - float(it["choice"] == pair[0]) for it in ratings])
    interval = bootstrap_interval(values, _items(ratings), seed, RESAMPLES)
    return {"of": pair[1], "over": pair[0], "difference": float(values.mean()), "interval_95": list(interval)}


def _items(ratings: Sequence[Rating]) -> numpy.typing.NDArray[numpy.int64]:
    numbers = {item: number for number, item in enumerate(dict.fromkeys(it["item_id"] for it in ratings))}
    return numpy.array([numbers[it["item_id"]] for it in ratings])


def _aspect(aspect: str, pair: tuple[str, str], ratings: Sequence[Rating]) -> dict[str, Any]:
    """Mean ratings of both models, and how far the raters agree on them."""
    found: dict[str, Any] = {}
    units = []
    for model in pair:
        scores = [it[aspect, model] for it in ratings if it[aspect, model] is not None]
        units += [
            (f"{it['item_id']}\0{model}", it["rater"], it[aspect, model])
            for it in ratings
            if it[aspect, model] is not None
        ]
        found[model] = {"ratings": len(scores), "mean": float(numpy.mean(scores)) if scores else None}
    return found | {"agreement": alpha(units, "ordinal")}


def alpha(judgements: Sequence[tuple[str, str, Any]], level: str) -> float | None:
    """Krippendorff's alpha of (unit, rater, value); None where no unit has two raters, or all values are one."""
    import krippendorff

    units, raters, values = (_numbered(judgement[place] for judgement in judgements) for place in range(3))
    counts = Counter(judgement[0] for judgement in judgements)
    compared = {judgement[2] for judgement in judgements if counts[judgement[0]] > 1}
    if len(compared) < 2:
        return None
    table = numpy.full((len(raters), len(units)), numpy.nan)
    for unit, rater, value in judgements:
        table[raters[rater], units[unit]] = values[value] if level == "nominal" else value
    return float(krippendorff.alpha(reliability_data=table, level_of_measurement=level))


def _numbered(names: Iterable[Any]) -> dict[Any, int]:
    return {name: number for number, name in enumerate(sorted(set(names)))}
